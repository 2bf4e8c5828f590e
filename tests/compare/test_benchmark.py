"""Leaderboard and tables of a benchmark, also of one of which a part is missing."""

from __future__ import annotations

import csv

import pytest

from msseg_lightning.compare.benchmark import (
    BenchmarkResult,
    benchmark_words,
    complete_runs,
    losses,
    run_rows,
    status_text,
)
from msseg_lightning.compare.leaderboard_table import cost
from msseg_lightning.run.benchmark.plan import Job
from msseg_lightning.run.benchmark.state import JobState, write_state
from msseg_lightning.run.benchmark.worker import Worker
from tests.run.benchmark.conftest import composed_once  # noqa: F401  (a fixture)
from tests.run.benchmark.toy import begin, refuse, simulate


@pytest.fixture
def result(monkeypatch, tmp_path):
    simulate(monkeypatch, refuse)
    benchmark = begin(tmp_path, "bsi_subtraction,ohem_unet,oversampled_unet", "budget.minutes=4")
    Worker(benchmark).run()
    return BenchmarkResult.read(benchmark)


def test_finished_systems_are_compared_and_the_others_are_listed(result):
    assert result.board is not None and result.board.order == [
        "oversampled_unet",
        "bsi_subtraction",
    ]
    assert result.counts() == {"finished": 2, "running": 0, "failed": 1, "waiting": 0}
    heads, rows = result.missing()
    ((run, state, reason, command),) = rows
    assert (run, state) == ("ohem_unet-fold0-seed0", "failed") and len(heads) == 4
    assert "cannot be trained here" in reason
    assert command == "--one ohem_unet-fold0-seed0"
    assert "2 finished" in result.text() and "cannot be trained here" in result.text()
    assert "3 runs: 2 finished, 0 running, 1 failed" in status_text([result.benchmark])
    assert "no benchmark" in status_text([])


def test_costs_and_figures_of_the_papers_stand_beside_what_was_measured(result):
    heads, rows = cost(result.board)
    (row,) = [row for row in rows if row[0] == "oversampled_unet"]
    cells = dict(zip(heads, row, strict=True))
    f1 = result.board.result("f1", "oversampled_unet").mean
    assert cells["Lesion F1"] == f"{f1:.3f}" and cells["CPU minutes"] == "3.9"


def test_every_run_has_its_cost(result):
    rows = {row["system"]: row for row in run_rows(result.states)}
    assert rows["ohem_unet"]["state"] == "failed" and rows["ohem_unet"]["cpu_minutes"] is None
    one = rows["oversampled_unet"]
    assert (one["cpu_minutes"], one["peak_mib"], one["parameters"]) == (3.9, 700, 1234)
    assert (one["prepare_cpu_minutes"], one["device"], one["commit"]) == (0.5, "cpu", "0123456789")
    heads, shown = result.runs()
    (line,) = [line for line in shown if line[0] == "oversampled_unet"]
    cells = dict(zip(heads, line, strict=True))
    assert cells["CPU min"] == "3.9" and cells["Params"] == "1,234"
    assert cells["Commit"] == "0123456" and cells["Date"].startswith("20")


def test_its_files_hold_all_of_it(result):
    files = {file.name: file.read_text() for file in result.write()}
    assert {"leaderboard.html", "leaderboard.md", "leaderboard.csv", "leaderboard.tex"} <= set(
        files
    )
    for name in ("leaderboard.html", "leaderboard.md"):
        assert all(
            text in files[name]
            for text in ("figures of the papers", "4 minutes of the processor", "cannot be trained")
        )
    with (result.benchmark.path / "runs.csv").open() as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == [
            "finished",
            "failed",
            "finished",
        ]
    result.write()  # over its own files


def test_others_see_no_folders_and_no_reasons_that_name_patients(result, tmp_path):
    files = result.for_others().write(tmp_path / "shown")
    text = "".join(file.read_text() for file in files)
    assert "/data/toy" not in text and "split.json" not in text and str(tmp_path) not in text
    assert "cannot be trained" not in text and "train.device" in text and "size=tiny" in text
    assert "/data/toy" in "".join(file.read_text() for file in result.write())


def test_a_benchmark_is_compared_by_its_folder(result):
    words = benchmark_words(str(result.benchmark.path))
    assert words is not None and [word.split("=")[0] for word in words] == [
        "bsi_subtraction",
        "oversampled_unet",
    ]
    assert benchmark_words(str(result.benchmark.path / "runs")) is None


def test_before_the_first_run_there_is_a_table_of_runs_only(tmp_path):
    found = BenchmarkResult.read(begin(tmp_path, "ohem_unet"))
    assert found.board is None and [file.name for file in found.write()] == ["runs.csv"]
    assert "waiting  ohem_unet-fold0-seed0" in found.text()


def test_a_system_counts_when_all_folds_of_a_seed_are_there(tmp_path):
    def state(fold, seed, status="finished"):
        return Job(seed, "a", fold), JobState(status, folder=tmp_path)  # type: ignore[arg-type]

    states = dict([state(0, 0), state(1, 0, "running"), state(0, 1), state(1, 1)])
    assert sorted(complete_runs(states)) == [Job(1, "a", 0), Job(1, "a", 1)]


def test_losses_are_means_of_tenths_over_all_networks(tmp_path):
    for member, first in (("a", 10.0), ("b", 20.0)):
        (tmp_path / member).mkdir()
        rows = "".join(f"{step},train/loss,{first - step}\n" for step in range(10))
        text = f"step,name,value\n{rows}10,val/score,99\n"
        (tmp_path / member / "curves.csv").write_text(text)
    assert losses(tmp_path) == (15.0, 6.0)
    assert losses(tmp_path / "none") == (None, None)


def test_a_run_that_is_taken_up_again_is_no_longer_failed(result):
    job = next(job for job in result.states if job.system == "ohem_unet")
    write_state(result.benchmark, job, "waiting")
    assert BenchmarkResult.read(result.benchmark).counts()["waiting"] == 1
