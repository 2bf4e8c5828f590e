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


def state(store, journal):
    return open_client(store).get_run(journal.position(store).run_id).info.status


def shared(store, folder, began, *records):
    """What a process left of a run that several processes record under one key."""
    journal = Journal(folder)
    journal.begin()
    opening = {"do": "open", "uri": store, "experiment": "e", "artifacts": None, "parent": None}
    journal.append([opening | {"key": "k", "name": "sweep", "time": began, "tags": {}}, *records])
    return journal


@pytest.mark.parametrize("order", ["first", "last"])
def test_what_a_killed_process_left_does_not_undo_the_end_another_one_saw(store, tmp_path, order):
    """Killed at 1 s; another began at 2 s and finished at 5 s; sent in either order."""
    names = ("a", "b") if order == "first" else ("b", "a")
    killed = shared(store, tmp_path / names[0], 1000)
    whole = shared(store, tmp_path / names[1], 2000, CLOSE | {"time": 5000})
    for _ in range(2):
        list(replay(find_journals([tmp_path])))
        assert state(store, whole) == "FINISHED" and killed.complete(store)
    run = open_client(store).get_run(whole.position(store).run_id)
    assert "interrupted" not in run.data.tags or order == "first"


def test_a_run_killed_after_it_was_resumed_is_killed(store, tmp_path):
    journal = left_behind(store, tmp_path / "run", CLOSE)  # closed at 2 s
    list(replay([journal]))
    assert state(store, journal) == "FINISHED"
    opening = next(journal.pending(0))[0]
    journal.append([opening | {"time": 3000}])
    list(replay([journal]))
    assert state(store, journal) == "KILLED"
    assert [sum(one.sent.values()) for one in replay([journal])] == [0]


def fold(store, folder, *records):
    journal = Journal(folder / "track")
    journal.begin()
    opening = {"do": "open", "uri": store, "experiment": "e", "artifacts": None, "tags": {}}
    opening |= {"key": folder.name, "name": folder.name, "time": 1000}
    above = {"folder": "../../above", "name": "all folds", "tags": {"level": "experiment"}}
    journal.append([opening | {"parent": above}, *records])
    return journal


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (("FINISHED", "FINISHED"), "FINISHED"),
        (("FINISHED", "FAILED"), "FAILED"),
        (("FAILED", "FINISHED"), "FAILED"),
        (("KILLED", "FINISHED"), "KILLED"),
        (("KILLED", "FAILED"), "FAILED"),
        (("FINISHED", None), "KILLED"),  # its process died without a word
    ],
)
def test_an_experiment_is_as_well_as_the_worst_of_its_folds(store, tmp_path, ends, expected):
    folds = [
        fold(store, tmp_path / f"fold{n}", *([CLOSE | {"status": end}] if end else []))
        for n, end in enumerate(ends)
    ]
    list(replay(folds))
    client = open_client(store)
    above = client.get_run(folds[0].position(store).run_id).data.tags["mlflow.parentRunId"]
    assert client.get_run(above).info.status == expected
    for journal in folds:  # each is resumed and finishes
        opening = next(journal.pending(0))[0]
        journal.append([opening | {"time": 9000}, CLOSE | {"time": 9500}])
        list(replay([journal]))
    assert client.get_run(above).info.status == "FINISHED"


def test_an_experiment_runs_while_a_fold_does(store, tmp_path):
    folds = [fold(store, tmp_path / "fold0", CLOSE), fold(store, tmp_path / "fold1")]
    for journal in folds:
        sender_module.Sender(store, journal).deliver()
    client = open_client(store)
    above = client.get_run(folds[0].position(store).run_id).data.tags["mlflow.parentRunId"]
    assert client.get_run(above).info.status == "RUNNING"


def test_a_process_number_used_again_is_another_process():
    tags = process_tags()
    assert is_alive(os.getpid(), tags["process.started"])
    assert not is_alive(os.getpid(), "1000.0")


def test_an_address_is_shown_without_its_password():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert without_password("http://host:5000") == "http://host:5000"
