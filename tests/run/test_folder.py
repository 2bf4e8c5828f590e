"""A run folder has one configuration and one process."""

from __future__ import annotations

import dataclasses
import json

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.folder import RunFolder, compare, flatten
from msseg_lightning.split.split import Split


def config(**changes):
    base = {
        "name": "toy",
        "size": "paper",
        "fold": 0,
        "seed": 0,
        "overwrite": False,
        "read": {"root": "data/small"},
        "paths": {"runs": "runs"},
        "train": {"steps": 5},
        "trainer": {"devices": 1},
    }
    return {**base, **changes}


def fitted(folder):
    folder.fit.mkdir()
    (folder.fit / "last.ckpt").touch()


def test_its_name_tells_experiment_data_fold_and_seed():
    assert str(RunFolder.from_config(config(fold=2)).path) == "runs/toy/small-fold2-seed0"
    assert RunFolder.from_config(config(size="cpu")).path.name == "small-cpu-fold0-seed0"


def test_the_same_settings_continue_and_other_hardware_may(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(config())
    folder.claim_config(config(trainer={"devices": 4}))


def test_devices_may_take_the_place_of_accumulation_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(config(train={"accumulate": 4}))
    fitted(folder)
    folder.claim_config(config(train={"accumulate": 2}, trainer={"devices": 2, "num_nodes": 1}))
    folder.claim_config(config(train={"accumulate": 1}, trainer={"devices": 2, "num_nodes": 2}))
    with pytest.raises(MssegError) as caught:
        folder.claim_config(config(train={"accumulate": 4}, trainer={"devices": 2}))
    assert "4 -> 8" in caught.value.problems[0].found


def test_changed_settings_are_refused_with_the_difference(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(config())
    fitted(folder)
    with pytest.raises(MssegError) as caught:
        folder.claim_config(config(train={"steps": 6}))
    assert caught.value.exit_code == ExitCode.MODEL
    assert "train.steps: 5 -> 6" in caught.value.problems[0].found


def test_settings_that_were_never_fitted_do_not_stand_in_the_way(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(config(read={"root": "dtaa/small"}))
    folder.update_record(status="FAILED")
    folder.claim_config(config())
    assert folder.config()["read"]["root"] == "data/small" and not folder.record()


def test_overwrite_clears_what_lay_there(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(config())
    (tmp_path / "fit").mkdir()
    folder.claim_config(config(train={"steps": 6}, overwrite=True))
    assert not (tmp_path / "fit").exists()
    assert folder.config()["train"]["steps"] == 6


SPLIT = Split(("003", "004"), ("002",), ("001",), "leave_one_out", 0, 0, "aa")
RENAMED = Split(("004", "101"), ("102",), ("003",), "leave_one_out", 0, 0, "bb")


def test_before_anything_is_fitted_the_data_may_change_and_after_that_stay(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_split(RENAMED)
    folder.claim_split(SPLIT)
    fitted(folder)
    folder.claim_split(SPLIT)
    assert json.loads(folder.split_file.read_text())["test"] == ["001"]


@pytest.mark.parametrize(
    ("split", "field", "found"),
    [
        (
            RENAMED,
            "train, val, test, data_hash",
            "data_hash: aa -> bb; 003: train -> test; 002: val -> None; "
            "001: test -> None; 101: None -> train; 102: None -> val",
        ),
        (dataclasses.replace(SPLIT, data_hash="bb"), "data_hash", "data_hash: aa -> bb"),
        (dataclasses.replace(SPLIT, train=("004", "003")), "train", "the same pairs in another"),
    ],
)
def test_after_a_change_of_data_what_was_fitted_is_not_used(tmp_path, split, field, found):
    folder = RunFolder(tmp_path)
    folder.claim_split(SPLIT)
    fitted(folder)
    before = folder.split_file.read_text()
    with pytest.raises(MssegError) as caught:
        folder.claim_split(split)
    (problem,) = caught.value.problems
    assert caught.value.exit_code == ExitCode.MODEL
    assert problem.file == folder.split_file and problem.field == field
    assert problem.found.startswith(found)
    assert folder.split_file.read_text() == before


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, "data_hash: None -> aa"), ("{", "no JSON"), ("[1]", "list, expected an object")],
)
def test_fitted_on_nobody_knows_what_is_not_used(tmp_path, text, found):
    folder = RunFolder(tmp_path)
    fitted(folder)
    if text is not None:
        folder.split_file.write_text(text)
    with pytest.raises(MssegError) as caught:
        folder.claim_split(SPLIT)
    assert caught.value.exit_code == ExitCode.MODEL
    assert found in caught.value.problems[0].found


def test_what_was_refused_leaves_no_folder(tmp_path):
    folder = RunFolder(tmp_path / "system" / "data-fold0-seed0")
    with folder.lock():
        folder.claim_config(config())
        folder.withdraw_claim()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["fit/last.ckpt", "run.json", "model/config.yaml"])
def test_what_was_begun_stays_when_it_is_refused(file, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.claim_config(config())
        (folder.path / file).parent.mkdir(exist_ok=True)
        (folder.path / file).touch()
        folder.withdraw_claim()
    assert folder.config_file.exists() and (folder.path / file).exists()


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path):
    with (
        RunFolder(tmp_path).lock(),
        pytest.raises(MssegError) as caught,
        RunFolder(tmp_path).lock(),
    ):
        pass
    assert caught.value.exit_code == ExitCode.CONFIG
    assert "process" in caught.value.problems[0].found


def test_flatten_and_compare_by_hand():
    assert flatten({"a": {"b": 1}, "c": []}) == {"a.b": 1, "c": []}
    assert compare({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == {"b": (2, 3), "c": (None, 4)}


@pytest.mark.parametrize("text", ["{", "- a", "\x00"])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(MssegError) as caught:
        RunFolder.find(str(tmp_path)).config()
    assert caught.value.exit_code == ExitCode.MODEL
