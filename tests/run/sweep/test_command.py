"""The real command: folds of real trainings, a resumed search, tracked trials."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.sweep.command import SweepArguments, key_in

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
    assert "Winner: trial" in out and "test result" in out
    (folder,) = (tmp_path / "sweeps").iterdir()
    runs = list(folder.glob("trials/*/oversampled_unet/*/scores.json"))
    assert len(runs) == 3  # two trials, one of them with another seed
    page = (folder / "report.html").read_text()
    assert all(title in page for title in ("Winner: trial", "History", "trained again", "Trials"))

    runs[0].unlink()  # to see that a look changes nothing
    name = f"name={folder.name}"
    assert main(["sweep", "oversampled_unet", name, "--status"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"wanted": 2, "complete": 2}
    assert main(["sweep", "oversampled_unet", name, "--best"]) == ExitCode.OK
    assert capsys.readouterr().out.count("train.optimizer.lr") == 2
    best = json.loads((folder / "best.json").read_text())
    assert main(["sweep", *words, "--export"]) == ExitCode.OK
    assert json.loads((folder / "best.json").read_text()) == best

    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as store:
        levels = store.execute(
            "select value, status from tags join runs using (run_uuid) where key = 'level'"
        ).fetchall()
        figures = {key for (key,) in store.execute("select distinct key from latest_metrics")}
    assert sorted(levels) == [("sweep", "FINISHED"), *[("trial", "FINISHED")] * 2]
    assert "result/clean_share_of_cases_without" in figures


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.stepz=3", "train.steps"),
        ("search.trails=3", "trials"),
        ("search.space={train.optimizer.lrr: {type: float, low: 0.1, high: 1}}", "optimizer.lr"),
        ("search.space={train.accumulate: {type: categorical, choices: [word]}}", "wrong type"),
        ("search.space={network: {type: categorical, choices: [unett]}}", "unett"),
        ("search.space={train.steps: {type: int, low: 1, high: 2}}", "also given"),
        ("search.space={fold: {type: int, low: 1, high: 2}}", "cannot be searched"),
        ("search.objective=[{metric: f1}]", "lesion_f1"),
        ("search.objective=[{metric: dice, budget: x}]", "budget"),
        ("search.folds=[0,7]", "fold"),
        ("search.space={network: [", "cannot be read"),
        ("search.retrain.best=-1", "0 or more"),
        ("store=nonsense", "not the address"),
        ("store=oracle://user:secret@host/base", "driver|address"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_trial(
    words, tmp_path, monkeypatch, capsys, word, said
):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words, word]) == ExitCode.CONFIG
    error = capsys.readouterr().err
    assert re.search(said, error) and "secret" not in error
    assert not list(tmp_path.glob("sweeps/*/*.db"))  # begun, it would refuse the right words


def test_a_look_at_no_sweep_makes_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "pre_unet", "name=typo", "--status"]) == ExitCode.CONFIG
    assert "typo" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_store_that_does_not_answer_is_named_without_its_password(tmp_path, monkeypatch, capsys):
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
    monkeypatch.chdir(tmp_path)
    store = "store=postgresql://me:secret@127.0.0.1:9/optuna"
    assert main(["sweep", "pre_unet", "name=lr", store, "--status"]) == ExitCode.STORE
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error and "secret" not in error


def test_cmaes_is_refused_on_a_store_of_others(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    both = ["search.sampler=cmaes", "store=postgresql://me@127.0.0.1:9/optuna"]
    assert main(["sweep", *words, *both]) == ExitCode.SECURITY
    assert "runs code" in capsys.readouterr().err


def test_words_of_a_search_are_told_from_those_of_the_experiment(tmp_path):
    words = SweepArguments.of(
        "pre_unet",
        ["search=optimiser", "search.trials=12", "+search.folds=[0,1]", "fold=0", "name=lr"],
    )
    assert (words.search, words.name, words.store) == ("optimiser", "lr", None)
    assert words.changes == {"trials": 12, "folds": [0, 1]} and words.overrides == ("fold=0",)
    assert words.sweeps_folder().name == "sweeps"
    assert SweepArguments.of("pre_unet", [f"paths.sweeps='{tmp_path}'"]).sweeps_folder() == tmp_path
    assert [key_in(word) for word in ("++a.b=c", "~d", "/loss@x=y")] == ["a.b", "d", "loss"]
