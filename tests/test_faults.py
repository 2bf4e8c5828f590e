"""Processes are killed at named points and at random: files are whole or absent.

The children are forks that do nothing but write, so a kill costs milliseconds.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from msseg_lightning.core import temporary
from msseg_lightning.core.files import read_record, write_record
from msseg_lightning.core.problem import MssegError, disk_error
from msseg_lightning.core.subject import Native
from msseg_lightning.core.subject_map import _attempt
from msseg_lightning.network.weights import load_weights, save_weights
from msseg_lightning.read.nifti import (
    FileFacts,
    GateOptions,
    inspect_volume,
    read_volume,
    write_volume,
)
from msseg_lightning.train.checkpoint import AtomicCheckpointIO, read_checkpoint
from tests.read import files
from tests.run.test_own_files import prepared, read_prepared

pytestmark = pytest.mark.faults

KILLS = 12
"""Per writer."""


def write_checkpoint(folder, number):
    state = {"state_dict": {"w": torch.full((40_000,), float(number))}, "global_step": number}
    AtomicCheckpointIO().save_checkpoint(state, folder / "last.ckpt")


def check_checkpoint(folder):
    state = read_checkpoint(folder / "last.ckpt")
    assert (state["state_dict"]["w"] == state["global_step"]).all()


def write_entry(folder, number):
    target = folder / f"entry-{time.time_ns()}"
    with temporary.temporary_folder(target) as place:
        prepared(place)
        place.rename(target)


def check_entry(folder):
    for place in folder.iterdir():
        assert isinstance(read_prepared(place), tuple)  # no damaged one


NATIVE: dict[str, Native] = {}
FULL = GateOptions(largest_mask_fraction=1.0)


def write_mask(folder, number):
    if not NATIVE:
        facts: dict[Path, FileFacts] = {}
        scan = files.save(folder / "scan.nii.gz", files.scans()[0])
        inspect_volume(scan, "image", facts=facts)
        NATIVE["scan"] = facts[scan].native
    data = np.full(files.SHAPE, number % 2, np.uint8)
    write_volume(folder / "003.nii.gz", data, NATIVE["scan"], "mask")


def check_mask(folder):
    assert len(np.unique(read_volume(folder / "003.nii.gz", "mask", FULL).data)) == 1


def write_json(folder, number):
    write_record(folder / "run.json", {"number": number, "values": [number] * 5000})


def check_json(folder):
    content = read_record(folder / "run.json", {"number": int})
    assert content["values"] == [content["number"]] * 5000


WRITERS = {
    "F01-checkpoint": (write_checkpoint, check_checkpoint),
    "F03-cache": (write_entry, check_entry),
    "F04-prediction": (write_mask, check_mask),
    "F12-record": (write_json, check_json),
}


def child(work) -> int:
    """A fork that works until it is killed; the number of its process."""
    pid = os.fork()
    if pid == 0:
        try:
            temporary._seen.clear()
            work()
        finally:
            os._exit(0)
    return pid


def killed(pid, after_s):
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_at_any_time_what_stands_there_is_whole(writer, tmp_path):
    write, check = WRITERS[writer]
    draw = random.Random(writer)
    write(tmp_path, 1)

    def forever():
        for number in range(2, 10**6):
            write(tmp_path, number)

    leftovers = 0
    for _ in range(KILLS):
        killed(child(forever), draw.uniform(0.001, 0.03))
        leftovers += len(list(tmp_path.glob(".partial-*")))
        temporary._seen.clear()  # as the next command
        write(tmp_path, 1)
        assert not list(tmp_path.glob(".partial-*"))
        check(tmp_path)
    assert leftovers > 0  # it was killed while it wrote


STOPS = {"after_write": "fsync", "before_rename": "replace"}
"""Named points of ``core.files.atomic_write``: calls of the operating system."""


@pytest.mark.parametrize("stop", STOPS)
def test_killed_at_a_named_point_the_old_file_is_there(stop, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1)

    def work():
        monkeypatch.setattr(os, STOPS[stop], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        write_checkpoint(tmp_path, 2)

    os.waitpid(child(work), 0)
    assert len(list(tmp_path.glob(".partial-*"))) == 1
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1


def test_weights_and_their_card_are_never_mixed(tmp_path, monkeypatch):  # F02
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_weights(first, tmp_path)
    replace = os.replace

    def work():
        def stop(old, new):
            if str(new).endswith("card.json"):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(old, new)

        monkeypatch.setattr(os, "replace", stop)
        save_weights(second, tmp_path)

    os.waitpid(child(work), 0)
    with pytest.raises(MssegError) as caught:
        load_weights(torch.nn.Linear(3, 2), tmp_path)
    assert caught.value.exit_code in (4, 6)
    save_weights(second, tmp_path)
    load_weights(torch.nn.Linear(3, 2), tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):  # F11
    write_checkpoint(tmp_path, 1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(Exception) as caught:
            write_checkpoint(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert disk_error(caught.value) is not None
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class UnpicklableError(Exception):
    """An error that no other process can receive."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        self.stream = open(os.devnull)  # noqa: SIM115, PTH123


def test_an_error_that_cannot_be_sent_reaches_the_parent_as_a_problem():  # F16
    def fail(_):
        raise UnpicklableError("scan 013", 3)

    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(UnpicklableError("a", 1))
    _, (problem,) = pickle.loads(pickle.dumps(_attempt(fail, "013", None, "preprocess")))
    assert problem.field == "013" and "scan 013" in problem.message
