"""Problems have a remedy, and the most severe one gives the exit code."""

from __future__ import annotations

import errno
import json
import resource
import signal
import sqlite3

import numpy as np
import pytest
import safetensors.torch
import torch

from msseg_lightning.core.problem import ExitCode, MssegError, Problem, disk_error

DATA = Problem("image.truncated", "the stream ends early", "a.nii.gz", remedy="copy it again")
HOSTILE = Problem("path.escape", "the path leaves the root", exit_code=ExitCode.SECURITY)


def test_one_line_names_file_and_remedy():
    assert str(DATA) == "[image.truncated] a.nii.gz: the stream ends early -> copy it again"


def test_details_are_named():
    problem = Problem("x", "wrong", field="dim", found="4", expected="3")
    assert str(problem) == "[x] wrong (field dim; found 4; expected 3)"


def test_all_problems_are_in_the_message():
    assert str(MssegError([DATA, HOSTILE])).count("\n") == 1


def test_security_outranks_the_first():
    assert MssegError([DATA, HOSTILE]).exit_code == ExitCode.SECURITY
    assert MssegError(DATA).exit_code == ExitCode.DATA


def test_a_record_is_json():
    assert json.loads(json.dumps(DATA.as_dict()))["exit_code"] == 3


def write_numpy(path):
    with path.open("wb") as stream:
        np.save(stream, np.zeros(100_000))


def write_sqlite(path):
    with sqlite3.connect(path) as store:
        store.execute("create table t (x)")
        store.executemany("insert into t values (?)", [("y" * 1000,)] * 1000)


WRITERS = {
    "plain": lambda path: path.write_bytes(b"x" * 1_000_000),
    "numpy": write_numpy,
    "torch": lambda path: torch.save({"a": torch.zeros(100_000)}, path),
    "safetensors": lambda path: safetensors.torch.save_file({"a": torch.zeros(100_000)}, path),
    "sqlite": write_sqlite,
}


@pytest.mark.faults
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_whichever_library_writes(writer, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(Exception) as caught:
            WRITERS[writer](tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    found = disk_error(caught.value)
    assert found is not None and found.errno in (errno.EFBIG, errno.ENOSPC)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), KeyError("y")])
def test_other_errors_are_none_of_the_disk(error):
    assert disk_error(error) is None
