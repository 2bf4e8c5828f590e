import pytest

from msseg_lightning.track import sender as sender_module
from msseg_lightning.track.journal import Journal, Position, run_key
from msseg_lightning.track.process import process_tags
from msseg_lightning.track.sender import PARENT_TAG, Sender
from msseg_lightning.track.store import open_client

OPEN = {
    "do": "open",
    "uri": "unused here",
    "experiment": "e",
    "artifacts": None,
    "key": "key1",
    "name": "r",
    "time": 1000,
    "tags": {"fold": "1"},
    "parent": None,
    "process": process_tags(),
}


def journal_with(folder, *records):
    journal = Journal(folder)
    journal.begin()
    journal.append([OPEN, *records])
    return journal


def run_of(store, journal):
    return open_client(store).get_run(journal.position(store).run_id)


def test_open_metrics_close(store, tmp_path):
    journal = journal_with(
        tmp_path / "track",
        {"do": "metrics", "points": [["test/dice", 0.5, 1000, 0]] * 1200},
        {"do": "artifact", "path": "gone", "folder": None},
        {"do": "close", "status": "FAILED", "time": 2000},
    )
    sender = Sender(store, journal)
    assert sender.deliver() == {"open": 1, "points": 1200, "artifact": 1, "close": 1}
    found = run_of(store, journal)
    assert (found.info.status, found.info.start_time, found.info.end_time) == ("FAILED", 1000, 2000)
    assert found.data.metrics == {"test/dice": 0.5} and journal.complete(store)
    assert sender.closed and Sender(store, journal).closed
    assert sender.deliver() == {}


def test_sending_twice_is_harmless(store, tmp_path):
    points = [["train/loss", 0.25, 1000, 7], ["val/dice", "nan", 1000, 7]]
    journal = journal_with(tmp_path / "track", {"do": "metrics", "points": points})
    Sender(store, journal).deliver()
    first = journal.position(store).run_id
    journal.confirm(Position(store))  # killed before the position was noted
    Sender(store, journal).deliver()
    client = open_client(store)
    assert journal.position(store).run_id == first
    for name in ("train/loss", "val/dice"):
        assert len(client.get_metric_history(first, name)) == 1
    experiment = client.get_experiment_by_name("e").experiment_id
    assert len(client.search_runs([experiment])) == 1


def test_an_artifact_is_found_from_the_journal_wherever_both_lie(store, tmp_path):
    journal = journal_with(
        tmp_path / "runs" / "track", {"do": "artifact", "path": "../report.html", "folder": None}
    )
    (tmp_path / "runs" / "report.html").write_text("<p>report</p>")
    (tmp_path / "runs").rename(tmp_path / "moved")
    journal = Journal(tmp_path / "moved" / "track")
    Sender(store, journal).deliver()
    files = open_client(store).list_artifacts(journal.position(store).run_id)
    assert [file.path for file in files] == ["report.html"]


def test_a_parent_is_made_once_whichever_child_is_first(store, tmp_path):
    parent = {"folder": "../../parent", "name": "family", "tags": {"level": "experiment"}}
    children = []
    for fold in ("0", "1"):
        journal = Journal(tmp_path / fold / "track")
        journal.begin()
        journal.append([{**OPEN, "key": f"key{fold}", "parent": parent}])
        Sender(store, journal).deliver()
        children.append(run_of(store, journal))
    client = open_client(store)
    (found,) = {child.data.tags[PARENT_TAG] for child in children}
    assert client.get_run(found).info.run_name == "family"
    assert client.get_run(found).info.status == "RUNNING"  # as its children are
    assert len(client.search_runs([children[0].info.experiment_id])) == 3
    # its own process, when it comes, continues it under its own name
    own = Journal(tmp_path / "own")
    own.begin()
    own.append([{**OPEN, "key": run_key(tmp_path / "parent"), "name": "sweep"}])
    Sender(store, own).deliver()
    assert own.position(store).run_id == found and run_of(store, own).info.run_name == "sweep"


def test_an_outage_is_noted_and_what_was_sent_stays_sent(store, tmp_path, monkeypatch):
    journal = journal_with(tmp_path / "track", {"do": "tags", "tags": {"a": "1"}})

    def away(*args, **kwargs):
        raise ConnectionError("no route")

    sender = Sender(store, journal)
    with monkeypatch.context() as patch:
        patch.setattr(sender.client, "log_batch", away)
        with pytest.raises(ConnectionError):
            sender.deliver()
    position = journal.position(store)
    assert position.run_id and "no route" in position.problem and position.tried > 0
    assert sender.deliver() == {"tags": 1} and journal.position(store).problem == ""


def test_another_store_is_told_everything(store, tmp_path, monkeypatch):
    journal = journal_with(tmp_path / "track", {"do": "metrics", "points": [["a", 1.0, 0, 0]]})
    journal.confirm(Position("http://old", "its id", 10_000))
    assert Sender(store, journal).deliver() == {"open": 1, "points": 1}
    assert run_of(store, journal).data.metrics == {"a": 1.0}


def test_what_the_store_refuses_does_not_block_the_rest(store, tmp_path):
    journal = journal_with(
        tmp_path / "track",
        {"do": "metrics", "points": [["bad\nname", 1.0, 0, 0], ["good", 2.0, 0, 0]]},
        {"do": "params", "params": {"lr": "0.1"}},
        {"do": "params", "params": {"lr": "0.2", "width": "8"}},
        {"do": "tags", "tags": {"long": "x" * 9000}},
    )
    Sender(store, journal).deliver()
    found = run_of(store, journal).data
    assert found.metrics == {"good": 2.0}
    assert found.params == {"lr": "0.1", "width": "8"} and found.tags["resumed.lr"] == "0.2"
    assert len(found.tags["long"]) == sender_module.TAG_LENGTH


def test_metrics_after_an_outage_go_in_few_requests_and_in_order():
    one = {"do": "metrics", "points": [["a", 1.0, 0, 0]] * 400}
    tags = {"do": "tags", "tags": {}}
    found = list(
        sender_module.merge_metrics(zip([one, one, one, tags, one], range(5), strict=True))
    )
    assert [(record["do"], len(record.get("points", [])), end) for record, end in found] == [
        ("metrics", 800, 1),
        ("metrics", 400, 2),
        ("tags", 0, 3),
        ("metrics", 400, 4),
    ]
