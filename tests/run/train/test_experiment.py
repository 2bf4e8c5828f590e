"""Files that a run writes."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest
import yaml
from safetensors.torch import load_file

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import write_record
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LongitudinalSubject
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.scores import digest
from msseg_lightning.run.predict.trained import load_config
from msseg_lightning.run.train.experiment import refuse_copies, save_model, train_experiment
from msseg_lightning.run.train.mlflow_run import (
    headline_metrics,
    tracked_settings,
    with_pseudonyms,
    without_paths,
)
from tests.conftest import run_command


def words(cohort):
    return [
        "train",
        "pre_unet",
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
        "size=tiny",
        "data.workers=1",
        "track=off",
    ]


def test_the_folder_of_a_run_tells_how_it_was_made(trained_run):
    record = json.loads((trained_run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["experiment"] == "pre_unet"
    assert {"version", "commit", "environment", "split_hash", "data_hash"} <= set(record)
    split = json.loads((trained_run / "split.json").read_text())
    assert (split["train"], split["test"]) == (["001", "002"], ["003", "004"])
    scores = json.loads((trained_run / "scores.json").read_text())
    assert scores["summary"]["with_lesions"]["cases"] == ["003"]
    assert scores["summary"]["without_lesions"]["cases"] == ["004"]
    learned = digest(["001", "002"])[:16]
    assert scores["pairs"]["003"] == {"patient": "003", "learned_from": learned}
    assert 0 < record["fit_minutes"] < 10
    assert (trained_run / "model" / "weights.safetensors").exists()
    assert yaml.safe_load((trained_run / "model" / "config.yaml").read_text())["name"] == "pre_unet"


def test_a_finished_run_is_not_trained_again(trained_run, tiny_cohort, monkeypatch):
    monkeypatch.chdir(trained_run.parents[2])
    before = (trained_run / "fit" / "last.ckpt").stat().st_mtime_ns
    assert main(words(tiny_cohort)) == ExitCode.OK
    assert (trained_run / "fit" / "last.ckpt").stat().st_mtime_ns == before


def test_a_run_is_not_tested_on_what_it_was_trained_on_after_a_change_of_data(
    trained_run, tiny_cohort, tmp_path, monkeypatch, capsys
):
    shutil.copytree(trained_run.parents[1], tmp_path / "runs")
    copy = tmp_path / "runs" / "pre_unet" / trained_run.name
    split = json.loads((copy / "split.json").read_text())
    assert split["train"] == ["001", "002"]
    then = {**split, "train": ["001", "003"], "test": ["002", "004"], "data_hash": "of then"}
    write_record(copy / "split.json", then)
    then = json.loads((copy / "split.json").read_text())
    monkeypatch.chdir(tmp_path)
    assert main(words(tiny_cohort)) == ExitCode.MODEL
    error = capsys.readouterr().err
    assert "split.json" in error and "003: train -> test" in error and "of then" in error
    assert json.loads((copy / "split.json").read_text()) == then
    assert json.loads((copy / "run.json").read_text())["status"] == "finished"


def test_other_settings_in_the_same_folder_are_refused(
    trained_run, tiny_cohort, monkeypatch, capsys
):
    monkeypatch.chdir(trained_run.parents[2])
    assert main([*words(tiny_cohort), "train.steps=5"]) == ExitCode.MODEL
    assert "train.steps: 4 -> 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "system, wrong",
    [
        ("pre_unet", "trainer.strategy=dpp"),
        ("segresnet_ensemble", "trainer.strategy=dpp"),
        ("segresnet_ensemble", "ensemble.level=heap"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_tracked(
    system, wrong, tiny_cohort, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    _, _, *rest = words(tiny_cohort)
    command = ["train", system, *rest[:-1], "track=mlflow", wrong]
    assert main(command) == ExitCode.CONFIG
    assert wrong.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "store.db").exists() and not (tmp_path / "mlruns").exists()
    assert not list((tmp_path / "runs").iterdir())


def test_killed_at_a_random_step_the_same_command_ends_with_equal_weights(
    trained_run, tiny_cohort, tmp_path, forking, monkeypatch, capsys
):
    command = [*words(tiny_cohort), "train.checkpoint_minutes=0"]
    child = forking.Process(target=run_command, args=(command, tmp_path))
    child.start()
    last = tmp_path / "runs" / "pre_unet" / "tiny-tiny-fold0-seed0" / "fit" / "last.ckpt"
    while not last.exists() and child.is_alive():
        time.sleep(0.002)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (last.parent / "done.json").exists(), "it finished before it was killed"
    monkeypatch.chdir(tmp_path)
    assert main(command) == ExitCode.OK, capsys.readouterr().err
    weights = load_file(last.parents[1] / "model" / "weights.safetensors")
    expected = load_file(trained_run / "model" / "weights.safetensors")
    assert set(weights) == set(expected)
    assert all(bool((weights[name] == expected[name]).all()) for name in expected)


def test_headline_metrics_keep_the_two_groups_apart(trained_run):
    scores = json.loads((trained_run / "scores.json").read_text())
    metrics = headline_metrics(scores["summary"])
    assert metrics["result/cases_with_new_lesions"] == 1
    assert metrics["result/cases_without_new_lesions"] == 1
    assert "result/dice" in metrics and "result/false_lesions_per_case_without" in metrics


def test_scores_can_be_shared_under_other_names(trained_run):
    scores = json.loads((trained_run / "scores.json").read_text())
    text = json.dumps(with_pseudonyms(scores, lambda case: f"case-{ord(case[-1])}"))
    assert '"003"' not in text and "case-51" in text


def test_what_is_tracked_or_saved_does_not_tell_where_the_data_lies(tmp_path):
    words = [
        "read.root=/home/someone/hospital",
        "split=file",
        "split.path=/home/someone/split.json",
        "sample.visits.reader.root=/home/someone/single",
        "paths.cache=/home/someone/cache",
        "track.uri=postgresql://u:hunter2@db/x",
        "track.key_file=/home/someone/key",
    ]
    config = compose_config([*words, "size=tiny"], "synthetic_lesions_unet")
    config["stages"]["inpaint"]["read"] = {"sources": {"a": [{"manifest": "someone/a.csv"}]}}

    class Nothing:
        def save(self, folder):
            folder.mkdir()

    save_model(Nothing(), config, RunFolder(tmp_path))
    saved = load_config(tmp_path / "model")
    assert saved["track"] == saved["read"] == {} and "hospital" not in str(saved)
    assert saved["train"] == config["train"] and "read" not in saved["stages"]["inpaint"]
    build_method(saved)  # all that is needed to predict is there
    told = [str(saved), str(without_paths(config)), str(tracked_settings(config))]
    assert not any("someone" in text or "hunter2" in text for text in told)
    assert not {"sample.visits.reader.root", "split.path"} & set(tracked_settings(config))


@pytest.mark.parametrize("target", ["ground_truth"])
def test_data_without_any_reference_is_refused(target, tiny_cohort, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_cohort, copy, ignore=shutil.ignore_patterns(f"{target}*"))
    monkeypatch.chdir(tmp_path)
    assert main(words(copy)) == ExitCode.DATA
    assert "new_lesions" in capsys.readouterr().err


def test_a_scan_under_two_patients_is_refused_before_training(tmp_path):
    def pair(name, patient, *contents):
        images = {}
        for visit, content in zip((BASELINE, FOLLOWUP), contents, strict=True):
            images[visit] = tmp_path / f"{name}-{visit}.nii.gz"
            images[visit].write_bytes(content)
        return LongitudinalSubject(id=name, patient=patient, images=images)

    shared = [pair("a", "p1", b"1", b"2"), pair("b", "p1", b"2", b"3")]
    refuse_copies(shared)  # the follow-up of one interval is the baseline of the next
    with pytest.raises(MssegError) as caught:
        refuse_copies([*shared, pair("c", "p2", b"3", b"4")])
    assert caught.value.exit_code == ExitCode.DATA
    assert [problem.file.name for problem in caught.value.problems] == ["c-baseline_flair.nii.gz"]
    with pytest.raises(MssegError, match=r"patient.case"):  # also of data a stage reads by itself
        refuse_copies([*shared, pair("d", "P1", b"5", b"6")])


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("trainer.accelerator=tpu", ExitCode.CONFIG),
        ("trainer.accelerator=gpu", ExitCode.ENVIRONMENT),
        ("train.batch_size=0", ExitCode.CONFIG),
        ("infer.overlap=1", ExitCode.CONFIG),
    ],
)
def test_hardware_and_ranges_are_checked_before_anything_is_read(tmp_path, monkeypatch, word, code):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    words = [
        "read.root=/nowhere",
        "size=tiny",
        f"paths.runs={tmp_path / 'runs'}",
        "track=off",
        word,
    ]
    with pytest.raises(MssegError) as caught:
        train_experiment(compose_config(words, "pre_unet"))
    assert caught.value.exit_code == code
    assert not list((tmp_path / "runs").rglob("*"))  # the corrected command starts anew
