"""The real command: folds of real trainings, a resumed search, tracked trials."""

from __future__ import annotations

import json
import sqlite3

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode

WORDS = (
    "search.trials=2",
    "search.folds=[0]",
    "search.sampler=random",
    "search.pruner=none",
    "search.objective=[{metric: false_lesions_per_case_without, direction: minimize}]",
    "search.retrain.best=1",
    "search.retrain.seeds=[1]",
    "split=file",
    "size=tiny",
    "data.workers=1",
    "train.steps=2",
    "track=mlflow_plain_ids",
)


@pytest.fixture(scope="module")
def words(tiny_cohort):
    return [
        "oversampled_unet",
        *WORDS,
        f"read.root={tiny_cohort}",
        f"split.path={tiny_cohort / 'split.json'}",
    ]


def test_a_sweep_runs_and_is_tracked(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == ExitCode.OK, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "again with new seeds" in out and "selected on" in out
    (folder,) = (tmp_path / "sweeps").iterdir()
    runs = list(folder.glob("trials/*/oversampled_unet/*/scores.json"))
    assert len(runs) == 3  # two trials, one of them with another seed
    assert main(["sweep", *words, "--status"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"wanted": 2, "complete": 2}
    assert main(["sweep", *words, "--best"]) == ExitCode.OK
    assert capsys.readouterr().out.count("train.optimizer.lr") == 2
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as store:
        levels = store.execute("select value from tags where key = 'level'").fetchall()
    assert sorted(level for (level,) in levels) == ["sweep", "trial", "trial"]


def test_an_unknown_setting_is_refused_before_the_first_trial(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words, "train.stepz=3"]) == ExitCode.CONFIG
    assert main(["sweep", *words, "search.trails=3"]) == ExitCode.CONFIG
    assert not (tmp_path / "sweeps").exists()
