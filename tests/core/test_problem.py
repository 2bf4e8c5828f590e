"""Problems have a remedy, and the most severe one gives the exit code."""

from __future__ import annotations

import json

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

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
