"""What MLflow gets of a benchmark, and of all folds of a system."""

from __future__ import annotations

import sqlite3

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.compare.benchmark import BenchmarkResult
from msseg_lightning.compare.benchmark_tracking import (
    BenchmarkTracking,
    system_metrics,
    track_all_folds,
    tracking_of,
)
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.benchmark.worker import Worker
from tests.run.benchmark.conftest import composed_once  # noqa: F401  (a fixture)
from tests.run.benchmark.toy import WORDS, begin, simulate
from tests.run.sweep.test_tracking import Tracking


@pytest.fixture
def tracking():
    return Tracking()


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    simulate(monkeypatch)
    found = begin(tmp_path)
    Worker(found).run()
    return found


def test_a_benchmark_is_one_run_with_a_child_per_system(benchmark, tracking):
    result = BenchmarkResult.read(benchmark)
    result.write()
    with BenchmarkTracking(tracking, benchmark).run() as log:
        log(result)
    parent, best, other = tracking.runs
    assert parent.name == "benchmark-toy" and parent.status == "FINISHED"
    assert {"leaderboard.html", "leaderboard.csv", "intervals.svg", "runs.csv"} <= set(
        parent.artifacts
    )
    assert parent.tags["runs_finished"] == 2 and "lesion F1" in parent.tags["mlflow.note.content"]
    assert [one.name for one in (best, other)] == [
        "benchmark-toy-oversampled_unet",
        "benchmark-toy-bsi_subtraction",
    ]
    assert best.more["parent"].name == parent.name and best.status == "FINISHED"
    f1 = result.board.result("f1", "oversampled_unet")
    assert best.metrics["result/lesion_f1", 0] == round(f1.mean, 4)
    assert best.metrics["result/lesion_f1_low", 0] == round(f1.interval[0], 4)
    assert (best.metrics["result/rank", 0], other.metrics["result/rank", 0]) == (1, 2)
    assert best.metrics["cost/cpu_minutes", 0] == 3.9


def test_one_without_a_finished_system_has_its_table_of_runs(tmp_path, tracking):
    found = BenchmarkResult.read(begin(tmp_path, "ohem_unet"))
    found.write()
    with BenchmarkTracking(tracking, found.benchmark).run() as log:
        log(found)
    (parent,) = tracking.runs
    assert parent.artifacts == ["runs.csv"] and parent.tags["runs_waiting"] == 1


def test_an_interrupted_one_is_killed(tmp_path, tracking):
    with (
        pytest.raises(KeyboardInterrupt),
        BenchmarkTracking(tracking, begin(tmp_path, "ohem_unet")).run(),
    ):
        raise KeyboardInterrupt
    assert tracking.runs[0].status == "KILLED"


def test_a_measure_without_an_interval_has_none(benchmark):
    board = BenchmarkResult.read(benchmark).board
    found = system_metrics(board, "bsi_subtraction")
    assert found["result/false_lesions_per_case_without"] >= 0
    assert all(isinstance(value, float) for value in found.values())


def test_track_off_records_nothing(benchmark):
    assert tracking_of(benchmark) is None


def test_the_store_shows_children_below_their_benchmark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulate(monkeypatch)
    words = [word for word in WORDS if not word.startswith("track")]
    systems = "systems=[oversampled_unet,bsi_subtraction]"
    assert main(["benchmark", "toy", systems, *words, "track=mlflow_plain_ids"]) == ExitCode.OK
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as store:
        levels = store.execute(
            "select value, status from tags join runs using (run_uuid) where key = 'level'"
        ).fetchall()
        parents = store.execute(
            "select count(distinct value) from tags where key = 'mlflow.parentRunId'"
        ).fetchone()
    assert sorted(levels) == [("benchmark", "FINISHED"), *[("benchmark_system", "FINISHED")] * 2]
    assert parents == (1,)
    names = {file.name for file in (tmp_path / "mlruns" / "artifacts").rglob("*.*")}
    assert {"leaderboard.html", "leaderboard.md", "intervals.svg", "runs.csv"} <= names


def test_all_folds_of_a_system_have_leaderboard_and_pictures(product, monkeypatch, tracking):
    from msseg_lightning.compare import benchmark_tracking

    monkeypatch.setattr(benchmark_tracking, "instantiate", lambda node: None)
    track_all_folds([product])
    monkeypatch.setattr(benchmark_tracking, "instantiate", lambda node: tracking)
    track_all_folds([product])
    (parent,) = tracking.runs
    assert {"leaderboard.html", "intervals.svg"} <= set(parent.artifacts)
    assert parent.name.startswith("oversampled_unet-") and parent.status == "FINISHED"
