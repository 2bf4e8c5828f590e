"""Runs one after the other: failing, killed, shared, at the end of the time; each in a process."""

from __future__ import annotations

import signal
import threading

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.benchmark import worker
from msseg_lightning.run.benchmark.state import claim, state_of_job, write_state
from msseg_lightning.run.benchmark.worker import Deadline, Worker, run_apart
from tests.run.benchmark.toy import begin, refuse, simulate

THREE = "bsi_subtraction,ohem_unet,oversampled_unet"


def statuses(benchmark):
    return [state_of_job(benchmark, job).status for job in benchmark.jobs]


def test_every_run_is_trained_once(toy):
    trained, folder = toy
    benchmark, ends = begin(folder), []
    Worker(benchmark, lambda: ends.append(statuses(benchmark))).run()
    assert trained == ["bsi_subtraction-fold0-seed0", "oversampled_unet-fold0-seed0"]
    assert ends == [["finished", "waiting"], ["finished", "finished"]]
    assert state_of_job(benchmark, benchmark.jobs[0]).prepare_cpu_minutes == 0.5
    Worker(benchmark).run()
    assert len(trained) == 2


def test_a_failing_system_is_noted_and_tried_again_by_the_next_call(monkeypatch, tmp_path):
    trained = simulate(monkeypatch, refuse)
    benchmark = begin(tmp_path, THREE)
    Worker(benchmark).run()
    assert statuses(benchmark) == ["finished", "failed", "finished"]
    assert "cannot be trained here" in state_of_job(benchmark, benchmark.jobs[1]).reason
    Worker(benchmark).run()
    assert trained[3:] == ["ohem_unet-fold0-seed0"]


def test_a_process_that_dies_without_a_word_has_failed(monkeypatch, tmp_path):
    simulate(monkeypatch)
    benchmark = begin(tmp_path, "ohem_unet")

    def die(words, file, deadline):
        file.write_text("step 5 of 10\n\n")
        write_state(benchmark, benchmark.jobs[0], "running")
        return -signal.SIGKILL

    monkeypatch.setattr(worker, "run_apart", die)
    Worker(benchmark).run()
    reason = state_of_job(benchmark, benchmark.jobs[0]).reason
    assert "SIGKILL (out of memory?)" in reason and "step 5 of 10" in reason


def test_a_stopped_one_is_continued_and_finished_ones_are_kept(monkeypatch, tmp_path):
    stops = ["ohem_unet"]

    def stop(config):
        if config["name"] in stops:
            stops.clear()
            raise KeyboardInterrupt

    trained = simulate(monkeypatch, stop)
    benchmark = begin(tmp_path, THREE)
    with pytest.raises(SystemExit) as caught:
        Worker(benchmark).run()
    assert caught.value.code == ExitCode.INTERRUPTED
    assert statuses(benchmark) == ["finished", "waiting", "waiting"]
    Worker(benchmark).run()
    assert statuses(benchmark) == ["finished"] * 3
    assert [name.split("-")[0] for name in trained] == [
        *("bsi_subtraction", "ohem_unet", "ohem_unet", "oversampled_unet")
    ]


def test_two_processes_share_the_runs(monkeypatch, tmp_path):
    """A second worker comes while the first one trains: each run is trained by one of them."""
    others = []

    def join(config):
        if not others:
            others.append(threading.Thread(target=Worker(benchmark).run))
            others[0].start()
            while statuses(benchmark)[1] != "finished":  # of the other worker
                pass

    trained = simulate(monkeypatch, join)
    benchmark = begin(tmp_path, THREE)
    Worker(benchmark).run()
    others[0].join()
    assert sorted(trained) == [f"{name}-fold0-seed0" for name in sorted(THREE.split(","))]
    assert statuses(benchmark) == ["finished"] * 3


def test_a_run_of_another_process_comes_last(toy, monkeypatch):
    trained, folder = toy
    benchmark = begin(folder, THREE)
    held = claim(benchmark, benchmark.jobs[0])
    held.__enter__()
    Worker(benchmark, lambda: len(trained) == 2 and held.__exit__(None, None, None)).run()
    assert trained[-1] == "bsi_subtraction-fold0-seed0" and len(trained) == 3


def test_at_the_end_of_the_time_nothing_is_begun(toy):
    trained, folder = toy
    benchmark = begin(folder)
    work = Worker(benchmark, minutes=1000)
    work.after_each = lambda: setattr(work, "deadline", Deadline(0))
    with pytest.raises(
        MssegError, match=r"`msseg benchmark toy paths.leaderboards=.*` continues"
    ) as caught:
        work.run()
    assert caught.value.exit_code == ExitCode.PREEMPTED
    assert len(trained) == 1


def test_a_process_of_its_own_is_told_to_end_in_time(tmp_path, monkeypatch):
    log = tmp_path / "log"
    assert run_apart(["list"], log, Deadline(None)) == ExitCode.OK
    assert run_apart(["nonsense"], log, Deadline(None)) == ExitCode.CONFIG
    assert "pre_unet" in log.read_text() and "nonsense" in log.read_text()
    sleeper = ["-c", "import time; time.sleep(60)"]
    whole = worker.subprocess.Popen
    monkeypatch.setattr(
        worker.subprocess, "Popen", lambda words, **more: whole([words[0], *sleeper], **more)
    )
    assert run_apart(["train"], log, Deadline(0.005)) == -signal.SIGTERM
