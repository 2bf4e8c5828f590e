import os

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track import sender as sender_module
from msseg_lightning.track.journal import Journal
from msseg_lightning.track.recovery import (
    find_journals,
    is_alive,
    process_tags,
    reap_dead_runs,
    replay,
    without_password,
)
from msseg_lightning.track.store import open_client

CLOSE = {"do": "close", "status": "FINISHED", "time": 2000}


def left_behind(store, folder, *records, **tags):
    journal = Journal(folder / "track")
    journal.begin()
    opening = {"do": "open", "uri": store, "experiment": "e", "artifacts": None, "parent": None}
    opening |= {"key": folder.name, "name": folder.name, "time": 1000, "tags": tags}
    points = [["train/loss", 1.0 / step, 1000 + step, step] for step in range(1, 4)]
    journal.append([opening, {"do": "metrics", "points": points}, *records])
    return journal


def test_what_is_unsent_is_sent_once(store, tmp_path):
    whole = left_behind(store, tmp_path / "runs" / "whole", CLOSE)
    torn = left_behind(store, tmp_path / "runs" / "torn")
    with torn.lines.open("a") as stream:
        stream.write('{"do": "met')
    busy = left_behind(store, tmp_path / "runs" / "busy")
    journals = find_journals([tmp_path / "runs", tmp_path / "nowhere"])
    assert len(journals) == 3
    with busy.sending():
        found = {result.folder.parent.name: result for result in replay(journals)}
    assert found["whole"].sent == {"open": 1, "points": 3, "close": 1}
    assert found["torn"].sent == {"open": 1, "points": 3}
    assert found["busy"].busy and found["busy"].sent == {}
    client = open_client(store)
    runs = [client.get_run(journal.position(store).run_id) for journal in (whole, torn)]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    again = [result.sent for result in replay(journals) if not result.busy]
    assert [sent.get("points", 0) for sent in again] == [3, 0, 0]  # busy first, by name
    assert len(client.get_metric_history(runs[0].info.run_id, "train/loss")) == 3


def test_a_store_that_is_away_ends_with_its_exit_code(store, tmp_path, monkeypatch):
    journal = left_behind("http://user:secret@store", tmp_path / "run", CLOSE)

    def gone(uri):
        raise ConnectionError("no route")

    monkeypatch.setattr(sender_module, "open_client", gone)
    with pytest.raises(MssegError) as caught:
        list(replay([journal]))
    assert caught.value.exit_code is ExitCode.STORE
    assert "secret" not in str(caught.value) and not journal.complete()


def test_dead_runs_are_marked_and_living_ones_left(store, tmp_path):
    dead = process_tags() | {"process.started": "1000.00"}
    runs = {
        name: left_behind(store, tmp_path / name, **tags)
        for name, tags in {"dead": dead, "alive": process_tags()}.items()
    }
    for journal in runs.values():
        sender_module.Sender(store, journal).deliver()
    ids = {name: journal.position(store).run_id for name, journal in runs.items()}
    assert reap_dead_runs(store) == [ids["dead"]]
    client = open_client(store)
    assert client.get_run(ids["dead"]).info.status == "KILLED"
    assert client.get_run(ids["alive"]).info.status == "RUNNING"


def test_a_process_number_used_again_is_another_process():
    tags = process_tags()
    assert is_alive(os.getpid(), tags["process.started"])
    assert not is_alive(os.getpid(), "1000.0")


def test_an_address_is_shown_without_its_password():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert without_password("http://host:5000") == "http://host:5000"
