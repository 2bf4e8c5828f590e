"""Training on every pair."""

from __future__ import annotations

import json

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LongitudinalSubject
from msseg_lightning.split.everything import Everything


def pairs(tmp_path, number=10):
    (tmp_path / "x.nii").touch()
    images = {BASELINE: tmp_path / "x.nii", FOLLOWUP: tmp_path / "x.nii"}
    names = [f"{index:02d}" for index in range(number)]
    return [LongitudinalSubject(id=name, patient=name, images=images) for name in names]


def test_nothing_is_held_out_for_a_test(tmp_path):
    subjects = pairs(tmp_path)
    lesions = {one.id: True for one in subjects}
    split = Everything(validation=0.2).split(subjects, 0, lesions)
    assert split.test == () and len(split.val) == 2
    assert sorted([*split.train, *split.val]) == [one.id for one in subjects]
    assert split.kind == "everything"
    whole = Everything(validation=0).split(subjects, 0, lesions)
    assert len(whole.train) == 10 and whole.val == ()
    assert Everything(0.2).split(subjects[::-1], 0, lesions).val == split.val


def test_there_is_one_such_split(tmp_path):
    subjects = pairs(tmp_path)
    with pytest.raises(MssegError) as caught:
        Everything().split(subjects, 1, {one.id: True for one in subjects})
    assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(MssegError):
        Everything().split(subjects, 0, {one.id: False for one in subjects})


def test_the_command_trains_and_says_that_nothing_is_scored(
    coarse_cohort, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["train", "bsi_subtraction", f"read.root={coarse_cohort}", "split=everything"]
    assert main([*words, "size=tiny", "data.workers=1", "track=off"]) == ExitCode.OK
    assert "no pair was held out: nothing is scored" in capsys.readouterr().out
    (run,) = (tmp_path / "runs" / "bsi_subtraction").iterdir()
    assert json.loads((run / "split.json").read_text())["test"] == []
    assert (run / "model" / "config.yaml").is_file() and (run / "report.html").is_file()
