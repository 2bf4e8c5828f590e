import dataclasses
import time

import pytest

from msseg_lightning.track import sender_process as process_module
from msseg_lightning.track import tracker as tracker_module
from msseg_lightning.track.sender import PARENT_TAG
from msseg_lightning.track.sender_process import JournalSender
from msseg_lightning.track.store import open_client
from msseg_lightning.track.tracker import Parent, Tracker, status_of


class LocalSenderProcess:
    """A sender process inside this process; the store can be taken away."""

    alive = True

    def __init__(self):
        self.rounds = {}
        self.away_s = None

    def notify(self, uri, journal, *, urgent=False):
        going = self.rounds.setdefault(journal.folder, JournalSender(uri, str(journal.folder)))
        if self.away_s is None:
            vars(going._sender).pop("deliver", None)
        else:
            going._sender.deliver = lambda: self.fail(journal, uri)
        if going.send_pending(urgent):
            going.release()

    def fail(self, journal, uri):
        time.sleep(self.away_s)
        before = journal.position(uri)
        journal.confirm(dataclasses.replace(before, problem="no route", tried=time.time()))
        raise ConnectionError("no route")

    def forget(self, uri, journal):
        self.rounds.pop(journal.folder).release()


@pytest.fixture
def sender_process(monkeypatch):
    monkeypatch.setattr(tracker_module, "FLUSH_S", 0.02)
    monkeypatch.setattr(process_module, "RETRY_S", 0.05)
    return LocalSenderProcess()


@pytest.fixture
def start(store, tmp_path, sender_process):
    def begin(**more):
        more = {
            "system_metrics": False,
            "spool": tmp_path / "track",
            "sender_process": sender_process,
        } | more
        return Tracker.start(store, "pre_unet", "demo-fold0-seed0", **more)

    return begin


def test_a_whole_run(start, store, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    with start(tags={"system": "pre_unet", "fold": 0}, params={"lr": 0.01}) as run:
        for step in range(3):
            run.log_metrics({"train/loss": 1.0 / (step + 1), "val/lesion_f1": float("nan")}, step)
        run.log_metrics({"not a number": "x", "train/loss (mean)": 1.0})
        run.log_text("a: 1\n", "config.yaml")
        run.log_artifact(report)
    client = open_client(store)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.01"}
    assert found.data.tags["system"] == "pre_unet" and found.data.tags["fold"] == "0"
    assert "mlflow.user" not in found.data.tags and "mlflow.source.name" not in found.data.tags
    assert set(found.data.metrics) == {"train/loss", "val/lesion_f1", "train/loss _mean_"}
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert {file.path for file in client.list_artifacts(run.run_id)} == {
        "config.yaml",
        "report.html",
    }


def test_a_child_in_its_parent_and_system_metrics(start, store, tmp_path):
    parent = Parent(tmp_path / "parent", "family", {"level": "experiment"})
    child = start(parent=parent, system_metrics=True)
    time.sleep(0.1)
    assert child.finish()
    client = open_client(store)
    found = client.get_run(child.run_id)
    assert client.get_run(found.data.tags[PARENT_TAG]).info.run_name == "family"
    assert found.data.metrics["system/process_memory_mebibytes"] > 1


def test_the_same_folder_continues_the_run_and_changed_parameters_become_tags(start, store):
    first = start(params={"lr": 0.01, "width": 8})
    first.finish("KILLED")
    second = start(params={"lr": 0.02, "width": 8, "new": 1})
    while second.journal.closed or not second.journal.complete(store):
        time.sleep(0.02)
    client = open_client(store)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.finish()
    found = client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.01", "width": "8", "new": "1"}
    assert found.data.tags["resumed.lr"] == "0.02" and "resumed.width" not in found.data.tags


def test_an_outage_neither_blocks_nor_loses(start, store, sender_process, caplog):
    run = start()
    while run.run_id is None:
        time.sleep(0.02)
    sender_process.away_s = 0.2
    begin = time.perf_counter()
    for step in range(500):
        run.log_metrics({"train/loss": float(step)}, step)
    assert time.perf_counter() - begin < 0.1  # a blocked call would take 100 s
    time.sleep(0.6)
    assert open_client(store).get_metric_history(run.run_id, "train/loss") == []
    assert [record.message for record in caplog.records] == [
        "the tracking store is unavailable (no route); points are kept"
    ]
    sender_process.away_s = None
    assert run.finish()
    history = open_client(store).get_metric_history(run.run_id, "train/loss")
    assert [point.value for point in history] == [float(step) for step in range(500)]


def test_a_store_gone_for_good_is_not_waited_for(start, store, sender_process):
    sender_process.away_s = 0.0
    run = start()
    run.log_metrics({"train/loss": 1.0}, 0)
    begin = time.perf_counter()
    assert not run.finish()
    assert time.perf_counter() - begin < 1 and run.run_id is None
    records = [record["do"] for record, _ in run.journal.pending(0)]
    assert records == ["open", "metrics", "close"]


def test_a_shared_run_names_none_of_its_processes(start, tmp_path):
    """Else it would be taken for dead with the last of them that came, while others work."""
    own, shared = start(), start(key="shared", spool=tmp_path / "track" / "process1")
    for run, named in ((own, True), (shared, False)):
        run.finish()
        opened = run.journal.opened()
        assert ("process.pid" in opened["tags"]) is named and "process.pid" in opened["process"]


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
