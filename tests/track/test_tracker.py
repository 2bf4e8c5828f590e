import os
import subprocess
import sys
import time

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track import sender as sender_module
from msseg_lightning.track import tracker as tracker_module
from msseg_lightning.track.store import open_client
from msseg_lightning.track.tracker import (
    Tracker,
    _alive,
    process_tags,
    reap_dead_runs,
    replay,
    status_of,
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(tracker_module, "FLUSH_S", 0.02)
    monkeypatch.setattr(tracker_module, "RETRY_S", 0.05)


def start(store, tmp_path, **more):
    more = {"system_metrics": False, "spool": tmp_path / "track"} | more
    return Tracker.start(store, "pre_unet", "demo-fold0-seed0", **more)


def test_a_whole_run(store, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    with start(store, tmp_path, tags={"system": "pre_unet", "fold": 0}, params={"lr": 0.01}) as run:
        for step in range(3):
            run.log_metrics({"train/loss": 1.0 / (step + 1), "val/lesion_f1": float("nan")}, step)
        run.log_text("a: 1\n", "config.yaml")
        run.log_artifact(report)
    client = open_client(store)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.01"}
    assert found.data.tags["system"] == "pre_unet" and found.data.tags["fold"] == "0"
    assert "mlflow.user" not in found.data.tags and "mlflow.source.name" not in found.data.tags
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert {file.path for file in client.list_artifacts(run.run_id)} == {
        "config.yaml",
        "report.html",
    }
    assert list((tmp_path / "track").iterdir()) == []  # nothing waits any more


def test_a_child_in_its_parent_and_system_metrics(store, tmp_path):
    parent = start(store, tmp_path, spool=tmp_path / "parent")
    child = start(store, tmp_path, parent=parent, system_metrics=True)
    time.sleep(0.1)
    assert child.finish() and parent.finish()
    found = open_client(store).get_run(child.run_id)
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert found.data.metrics["system/process_memory_mebibytes"] > 1


def test_resume_reopens_and_changed_parameters_become_tags(store, tmp_path):
    first = start(store, tmp_path, params={"lr": 0.01, "width": 8})
    first.finish("KILLED")
    second = start(
        store, tmp_path, params={"lr": 0.02, "width": 8, "new": 1}, resume_run_id=first.run_id
    )
    client = open_client(store)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.finish()
    found = client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.01", "width": "8", "new": "1"}
    assert found.data.tags["resumed.lr"] == "0.02" and "resumed.width" not in found.data.tags


def test_an_outage_neither_blocks_nor_loses(store, tmp_path, monkeypatch):
    run = start(store, tmp_path)
    real = run._sender.client.log_batch

    def away(*args, **kwargs):
        time.sleep(0.2)
        raise ConnectionError("no route")

    monkeypatch.setattr(run._sender.client, "log_batch", away)
    begin = time.perf_counter()
    for step in range(500):
        run.log_metrics({"train/loss": float(step)}, step)
    assert time.perf_counter() - begin < 0.1  # a blocked call would take 100 s
    time.sleep(0.4)
    assert open_client(store).get_metric_history(run.run_id, "train/loss") == []
    monkeypatch.setattr(run._sender.client, "log_batch", real)
    assert run.finish()
    history = open_client(store).get_metric_history(run.run_id, "train/loss")
    assert [point.value for point in history] == [float(step) for step in range(500)]


def test_a_store_gone_for_good_leaves_a_spool_that_can_be_replayed(store, tmp_path, monkeypatch):
    def gone(uri):
        raise ConnectionError("no route")

    with monkeypatch.context() as patch:
        patch.setattr(sender_module, "open_client", gone)
        run = start(store, tmp_path, wait_s=0.1, tags={"system": "pre_unet"})
        assert run.run_id is None
        run.log_metrics({"train/loss": 1.0}, 0)
        assert not run.finish()
        with pytest.raises(MssegError) as caught:
            replay(store, tmp_path / "track")
    assert caught.value.exit_code is ExitCode.STORE

    assert replay(store, tmp_path / "track") == 1
    client = open_client(store)
    experiment = client.get_experiment_by_name("pre_unet").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED" and found.data.metrics == {"train/loss": 1.0}
    assert replay(store, tmp_path / "track") == 0


def test_sending_twice_is_harmless(store, tmp_path):
    run = start(store, tmp_path)
    run.log_metrics({"train/loss": 0.5, "val/dice": float("nan")}, 3)
    run.finish("FINISHED", timeout_s=0)  # the journal may remain
    run._thread.join()
    journal = run.journal
    journal.append(
        [{"do": "metrics", "points": [["train/loss", 0.25, 1000, 7], ["val/dice", "nan", 1000, 7]]}]
    )
    journal.sent = 0
    sender_module.Sender(store, journal).deliver()
    journal.sent = 0  # killed before the position was noted
    journal.run_id = None
    sender_module.Sender(store, journal).deliver()
    client = open_client(store)
    assert [
        p.value for p in client.get_metric_history(run.run_id, "train/loss") if p.step == 7
    ] == [0.25]
    experiment = client.get_experiment_by_name("pre_unet").experiment_id
    assert len(client.search_runs([experiment])) == 1


def test_what_the_store_refuses_does_not_block_the_rest(store, tmp_path):
    run = start(store, tmp_path)
    run._put({"do": "metrics", "points": [["bad\nname", 1.0, 0, 0]]})
    run.log_metrics({"train/loss (mean)": 1.0})
    run.log_metrics({"not a number": "x"})
    assert run.finish()
    assert open_client(store).get_run(run.run_id).data.metrics == {"train/loss _mean_": 1.0}


def test_dead_runs_are_marked_and_living_ones_left(store, tmp_path):
    program = (
        "import os, sys; from pathlib import Path\n"
        "from msseg_lightning.track.tracker import Tracker\n"
        "run = Tracker.start(sys.argv[1], 'e', 'r', spool=Path(sys.argv[2]))\n"
        "print(run.run_id, flush=True); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, store, str(tmp_path / "dead")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    dead = killed.stdout.split()[0]
    alive = start(store, tmp_path)
    assert reap_dead_runs(store) == [dead]
    client = open_client(store)
    found = client.get_run(dead)
    assert found.info.status == "KILLED" and found.data.tags["interrupted"] == "true"
    assert client.get_run(alive.run_id).info.status == "RUNNING"
    alive.finish()


def test_a_process_number_used_again_is_another_process():
    tags = process_tags()
    assert _alive(os.getpid(), tags["process.started"])
    assert not _alive(os.getpid(), "1000.0")


def test_status_of_an_exception():
    class SIGTERMException(SystemExit):  # Lightning's, by name
        pass

    class TrialPruned(Exception):  # noqa: N818 - Optuna's, by name
        pass

    assert status_of(None) == "FINISHED"
    assert status_of(ValueError()) == "FAILED"
    assert status_of(KeyboardInterrupt()) == "KILLED"
    assert status_of(SIGTERMException()) == "KILLED"
    assert status_of(SystemExit(143)) == "KILLED"
    assert status_of(SystemExit(1)) == "FAILED"
    assert status_of(TrialPruned()) == "FINISHED"
