"""The real command on two processes leaves one run, equal to that of one process."""

from __future__ import annotations

import json

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.train.curves import read_curves


def test_two_processes_leave_what_one_leaves(trained_run, tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        *("train", "pre_unet", f"read.root={tiny_cohort}", "split=file"),
        *(f"split.path={tiny_cohort / 'split.json'}", "size=tiny", "data.workers=1", "track=off"),
        *("trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.devices=2"),
        "train.batch_size=1",  # two in all, as in the run of one process
    ]
    assert main(words) == ExitCode.OK
    (run,) = (tmp_path / "runs" / "pre_unet").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert {p.name for p in run.iterdir()} == {p.name for p in trained_run.iterdir()}
    curves, expected = (read_curves(place / "fit" / "curves.csv") for place in (run, trained_run))
    assert [(row["step"], row["name"]) for row in curves] == [
        (row["step"], row["name"]) for row in expected
    ]
    assert [row["value"] for row in curves] == pytest.approx(
        [row["value"] for row in expected], rel=1e-4
    )
    # not the weights: Adam moves one without influence (a bias before a norm) by noise alone
    found, reference = (
        json.loads((place / "scores.json").read_text())["summary"] for place in (run, trained_run)
    )
    assert found["with_lesions"]["lesions"] == reference["with_lesions"]["lesions"]
    assert found["without_lesions"]["clean"] == reference["without_lesions"]["clean"]


def test_several_machines_need_someone_who_starts_them(tiny_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        *("train", "pre_unet", f"read.root={tiny_cohort}", "split=file"),
        *(f"split.path={tiny_cohort / 'split.json'}", "size=tiny", "data.workers=1", "track=off"),
        "trainer.num_nodes=2",
    ]
    assert main(words) == ExitCode.CONFIG
    assert "torchrun" in capsys.readouterr().err
