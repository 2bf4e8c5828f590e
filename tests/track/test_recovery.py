import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track import sender as sender_module
from msseg_lightning.track.journal import Journal, Position, run_key
from msseg_lightning.track.process import process_tags
from msseg_lightning.track.recovery import (
    find_journals,
    reap_dead_runs,
    replay,
)
from msseg_lightning.track.store import open_client

CLOSE = {"do": "close", "status": "FINISHED", "time": 2000}


def left_behind(store, folder, *records, **tags):
    journal = Journal(folder / "track")
    journal.begin()
    opening = {"do": "open", "uri": store, "experiment": "e", "artifacts": None, "parent": None}
    opening |= {"key": folder.name, "name": folder.name, "time": 1000, "tags": tags}
    opening |= {"process": tags} if tags else {}
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
    with busy.sending_lock():
        found = {result.folder.parent.name: result for result in replay(journals, store)}
    assert found["whole"].sent == {"open": 1, "points": 3, "close": 1}
    assert found["torn"].sent == {"open": 1, "points": 3}
    assert found["busy"].busy and found["busy"].sent == {}
    client = open_client(store)
    runs = [client.get_run(journal.position(store).run_id) for journal in (whole, torn)]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    again = [result.sent for result in replay(journals, store) if not result.busy]
    assert [sent.get("points", 0) for sent in again] == [3, 0, 0]  # busy first, by name
    assert len(client.get_metric_history(runs[0].info.run_id, "train/loss")) == 3


def test_a_store_that_is_away_ends_with_its_exit_code(store, tmp_path, monkeypatch):
    journal = left_behind("http://user:secret@host", tmp_path / "run", CLOSE)

    def gone(uri):
        raise ConnectionError("no route")

    monkeypatch.setattr(sender_module, "open_client", gone)
    with pytest.raises(MssegError) as caught:
        list(replay([journal], "http://user:secret@host"))
    assert caught.value.exit_code is ExitCode.STORE
    assert "secret" not in str(caught.value) and not journal.complete()


def test_dead_runs_are_marked_and_living_ones_left(store, tmp_path):
    dead = process_tags() | {"process.started": "-5.0"}
    runs = {
        name: left_behind(store, tmp_path / name, **tags)
        for name, tags in {"dead": dead, "alive": process_tags()}.items()
    }
    for journal in runs.values():
        sender_module.Sender(store, journal).deliver()
    ids = {name: journal.position(store).run_id for name, journal in runs.items()}
    client = open_client(store)
    assert client.get_run(ids["dead"]).info.status == "KILLED"
    client.update_run(ids["dead"], status="RUNNING")  # as it was sent while the process lived
    assert reap_dead_runs(store) == [ids["dead"]]
    assert client.get_run(ids["dead"]).info.status == "KILLED"
    assert client.get_run(ids["alive"]).info.status == "RUNNING"


def opened(key, time, process=None, parent=None, **tags):
    record = {"do": "open", "uri": "", "experiment": "e", "artifacts": None, "parent": parent}
    return record | {
        "key": key,
        "name": key,
        "time": time,
        "tags": {name: str(value) for name, value in tags.items()},
        "process": process or process_tags() | {"process.started": "-5.0"},
    }


def write(folder, store, *records):
    journal = Journal(folder)
    journal.begin()
    journal.append([{**one, "uri": store} if one["do"] == "open" else one for one in records])
    return journal


def close(status, time):
    return {"do": "close", "status": status, "time": time}


def everything(store):
    client = open_client(store)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    return {run.info.run_name: (run.info.status, run.info.end_time, run.data.tags) for run in runs}


def states(store):
    return {name: status for name, (status, _, _) in everything(store).items()}


@pytest.mark.parametrize(
    ("processes", "status"),
    [
        ([(1000, None), (5000, ("FINISHED", 6000))], "FINISHED"),  # killed, resumed, finished
        ([(1000, ("FAILED", 2000)), (5000, ("FINISHED", 6000))], "FINISHED"),
        ([(1000, ("KILLED", 2000)), (5000, ("FINISHED", 6000))], "FINISHED"),  # Ctrl-C
        ([(1000, ("FINISHED", 6000)), (5000, None)], "FINISHED"),  # a helper was killed at the end
        ([(1000, ("FINISHED", 2000)), (5000, None)], "KILLED"),  # goes on with more trials
        ([(1000, ("FINISHED", 2000)), (5000, ("FAILED", 6000))], "FAILED"),
        ([(1000, ("FAILED", 2000)), (5000, ("KILLED", 6000))], "KILLED"),  # one after the other
        ([(1000, ("FAILED", 6000)), (5000, ("KILLED", 7000))], "FAILED"),  # at the same time
    ],
)
def test_the_state_of_a_shared_run_is_that_of_the_work_whoever_died(
    store, tmp_path, processes, status
):
    key = run_key(tmp_path / "sweeps" / "s" / "track")
    for number, (start, end) in enumerate(processes):
        records = [opened(key, start, level="sweep"), *([close(*end)] if end else [])]
        write(tmp_path / "sweeps" / "s" / "track" / f"process{9 - number}", store, *records)
    for _ in range(2):
        list(replay(find_journals([tmp_path / "sweeps"]), store))
        assert states(store) == {key: status}
    before = everything(store)
    list(replay(find_journals([tmp_path / "sweeps"]), store))
    reap_dead_runs(store)
    assert everything(store) == before


def test_a_shared_run_goes_on_while_one_of_its_processes_lives(store, tmp_path):
    key = run_key(tmp_path / "track")
    write(tmp_path / "track" / "process1", store, opened(key, 1000, process_tags(), level="sweep"))
    write(tmp_path / "track" / "process2", store, opened(key, 2000, level="sweep"))
    found = list(replay(find_journals([tmp_path]), store))
    assert [one.busy for one in found] == [True, False]
    assert reap_dead_runs(store) == [] and states(store) == {key: "RUNNING"}


@pytest.mark.parametrize(
    ("folds", "status"),
    [
        (["FINISHED", "FINISHED"], "FINISHED"),
        (["FINISHED", "FAILED", "KILLED"], "FAILED"),
        (["KILLED", "FINISHED"], "KILLED"),
        (["FINISHED", None], "KILLED"),
    ],
)
def test_an_experiment_is_as_its_worst_fold_and_finished_when_that_is(
    store, tmp_path, folds, status
):
    parent = {"folder": "../../.parent", "name": "whole", "tags": {"level": "experiment"}}
    place = tmp_path / "runs"

    def fold(number, *records):
        start = opened(f"fold{number}", 1000, parent=parent, fold=number)
        return write(place / f"f{number}" / "track", store, start, *records)

    for number, end in enumerate(folds):
        fold(number, *([close(end, 2000 + number)] if end else []))
    whole = opened(run_key(place / ".parent"), 3000, level="experiment")
    own = write(place / "f0" / "track" / "experiment", store, whole, close("FINISHED", 3001))
    assert own.closed
    for _ in range(2):
        list(replay(find_journals([place]), store))
        assert everything(store)[whole["name"]][0] == status
    before = everything(store)
    list(replay(find_journals([place]), store))
    assert everything(store) == before
    for number, end in enumerate(folds):
        if end != "FINISHED":
            fold(number, close("FINISHED", 9000))
    list(replay(find_journals([place]), store))
    assert set(states(store).values()) == {"FINISHED"}


def test_a_fold_that_was_started_over_does_not_spoil_its_experiment(store, tmp_path):
    parent = {"folder": "../../.parent", "name": "whole", "tags": {"level": "experiment"}}
    for key, time, end in (("old", 1000, "FAILED"), ("new", 5000, "FINISHED")):
        start = opened(key, time, parent=parent, fold=0)
        write(tmp_path / "runs" / key / "track", store, start, close(end, time + 1))
    list(replay(find_journals([tmp_path]), store))
    assert states(store) == {"old": "FAILED", "new": "FINISHED", "whole": "FINISHED"}


def test_a_run_that_has_just_begun_is_left_to_its_process(store, tmp_path):
    """Its sender process starts seconds later, so nobody holds the lock yet."""
    write(tmp_path / "track", store, opened("young", 1000, process_tags()))
    (found,) = replay(find_journals([tmp_path]), store)
    assert found.busy and states(store) == {}


def test_a_state_that_the_store_missed_is_sent_later(store, tmp_path, monkeypatch):
    journal = write(tmp_path / "track", store, opened("late", 1000), close("FAILED", 2000))

    def away(*arguments):
        raise ConnectionError("no route")

    with monkeypatch.context() as patch, pytest.raises(MssegError):
        patch.setattr(sender_module, "set_state", away)
        list(replay([journal], store))
    list(replay([journal], store))
    assert states(store) == {"late": "FAILED"}


def test_an_experiment_ends_when_its_last_fold_does(store, tmp_path):
    parent = {"folder": "../../.parent", "name": "whole", "tags": {"level": "experiment"}}
    for number, end in ((0, 9000), (1, 5000)):
        start = opened(f"fold{number}", 1000, parent=parent, fold=number)
        write(tmp_path / f"f{number}" / "track", store, start, close("FINISHED", end))
    list(replay(find_journals([tmp_path]), store))
    assert everything(store)["whole"][:2] == ("FINISHED", 9000)


def test_a_sweep_that_a_trial_made_first_is_as_its_own_records_say(store, tmp_path):
    """The trial's journal is sent before that of the sweep's process."""
    track = tmp_path / "s" / "track"
    parent = {"folder": "..", "name": "sweep", "tags": {"level": "sweep"}}
    trial = write(
        track / "trial0", store, opened("t", 1000, parent=parent), close("FINISHED", 2000)
    )
    write(track / "process1", store, opened(run_key(track), 900), close("FAILED", 3000))
    sender_module.Sender(store, trial).deliver()
    assert everything(store)["sweep"][:2] == ("FAILED", 3000)


def test_a_run_deleted_in_mlflow_stays_deleted_and_blocks_nothing(store, tmp_path):
    parent = {"folder": "../../.parent", "name": "whole", "tags": {"level": "experiment"}}
    fold = write(tmp_path / "f0" / "track", store, opened("fold0", 1000, parent=parent, fold=0))
    other = write(tmp_path / "g" / "track", store, opened("other", 1000), close("FINISHED", 2000))
    list(replay([fold], store))
    client = open_client(store)
    run_id = fold.position(store).run_id
    above = client.get_run(run_id).data.tags["mlflow.parentRunId"]
    for gone in (run_id, above):
        client.delete_run(gone)
    fold.append([close("FINISHED", 3000)])
    list(replay([fold, other], store))
    assert states(store) == {"other": "FINISHED"}


def test_what_was_recorded_for_another_store_goes_there_only_when_told(store, tmp_path):
    foreign = tmp_path / "for_other_store" / "mlflow.db"
    unsent = write(tmp_path / "a" / "track", f"sqlite:///{foreign}", opened("a", 1000))
    sent = write(
        tmp_path / "b" / "track", "http://known", opened("b", 1000), close("FINISHED", 2000)
    )
    sent.confirm(Position("http://known", "id", sent.lines.stat().st_size))
    found = list(replay([unsent, sent], store))
    assert [(one.for_other_store, one.sent) for one in found] == [(True, {}), (False, {})]
    assert not foreign.parent.exists() and everything(store) == {}
    list(replay([unsent, sent], store, everything=True))
    assert states(store) == {"a": "KILLED", "b": "FINISHED"} and not foreign.parent.exists()


def test_records_of_another_hand_reach_nothing_beside_the_run(store, tmp_path, caplog):
    secret = tmp_path / "home" / "id_rsa"
    secret.parent.mkdir()
    secret.write_text("secret")
    run = tmp_path / "downloads" / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "weights").write_text("w")
    (run / "model" / "link").symlink_to(secret)
    parent = {"folder": "../../../home/made", "name": "p", "tags": {}}
    start = opened("x", 1000, parent=parent) | {"artifacts": (tmp_path / "home").as_uri()}
    journal = write(
        run / "track",
        store,
        start,
        {"do": "artifact", "path": "../../../home/id_rsa", "folder": None},
        {"do": "artifact", "path": "../model", "folder": "model"},
        {"do": "settle_run", "time": 0},
        {"do": "open"},
        close("FINISHED", 2000),
    )
    with journal.lines.open("a") as stream:
        stream.write("no JSON\n")
    list(replay([journal], store))
    client = open_client(store)
    run_id = journal.position(store).run_id
    assert [one.path for one in client.list_artifacts(run_id)] == ["model"]
    assert [one.path for one in client.list_artifacts(run_id, "model")] == ["model/weights"]
    assert [one.name for one in secret.parent.iterdir()] == ["id_rsa"]
    assert states(store) == {"x": "FINISHED"}
    assert "id_rsa lies outside" in caplog.text and "damaged record" in caplog.text
