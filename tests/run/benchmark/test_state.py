"""States of runs, also of those whose process was killed."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.benchmark.state import claim, is_claimed, state_of_job, write_state
from tests.run.benchmark.toy import begin


def test_a_run_is_held_by_one_process_and_waits_when_that_is_gone(tmp_path):
    toy = begin(tmp_path)
    job = toy.jobs[0]
    assert state_of_job(toy, job).status == "waiting"
    with claim(toy, job):
        write_state(toy, job, "running", folder="runs/a")
        assert is_claimed(toy, job) and state_of_job(toy, job).status == "running"
        with pytest.raises(MssegError, match=r"run\.busy"), claim(toy, job):
            pass
    found = state_of_job(toy, job)
    assert (found.status, found.folder) == ("waiting", tmp_path / "toy" / "runs" / "a")
    assert "stopped" in found.reason


def test_finished_is_what_has_scores(tmp_path):
    toy = begin(tmp_path)
    job = toy.jobs[0]
    write_state(toy, job, "failed", reason="of some kind", folder="runs/a")
    assert state_of_job(toy, job).reason == "of some kind"
    write_state(toy, job, "finished")
    assert state_of_job(toy, job).status == "waiting"
    (tmp_path / "toy" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "toy" / "runs" / "a" / "scores.json").touch()
    found = state_of_job(toy, job)
    assert (found.status, found.reason) == ("finished", "") and found.date


def test_a_damaged_record_is_that_of_a_run_that_waits(tmp_path):
    toy = begin(tmp_path)
    write_state(toy, toy.jobs[0], "failed", reason="x")
    (toy.state / f"{toy.jobs[0]}.json").write_text("{")
    assert state_of_job(toy, toy.jobs[0]).status == "waiting"
