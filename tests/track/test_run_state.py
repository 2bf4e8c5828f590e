import os
import time

import pytest

from msseg_lightning.track.journal import Journal
from msseg_lightning.track.process import process_tags
from msseg_lightning.track.run_state import (
    SILENCE_LIMIT_S,
    RunState,
    is_being_written,
    journals_of_run,
    state_of,
    worst_status,
)

DEAD = process_tags() | {"process.started": "-5.0"}
START = {"do": "open", "key": "k", "tags": {}, "process": DEAD, "uri": "", "experiment": "e"}
START |= {"name": "r", "artifacts": None, "parent": None}


def journal_with(folder, *records):
    journal = Journal(folder)
    journal.append(list(records))
    return journal


def test_worst():
    assert worst_status(["FINISHED", "RUNNING", "KILLED", "FAILED"]) == "FAILED"
    assert worst_status(["FINISHED", "RUNNING", "KILLED"]) == "KILLED"
    assert worst_status(["FINISHED", "RUNNING"]) == "RUNNING"
    assert worst_status(["FINISHED"]) == "FINISHED"


def test_the_last_attempt_of_one_process_after_the_other_counts(tmp_path):
    assert state_of([]) is None
    journal = journal_with(
        tmp_path, {**START, "time": 1}, {"do": "close", "status": "FAILED", "time": 2}
    )
    assert state_of([journal]) == RunState("FAILED", 2)
    journal.append([{**START, "time": 5}, {"do": "metrics", "points": [["a", 1.0, 8, 0]]}])
    assert state_of([journal]) == RunState("KILLED", 8, interrupted=True)
    journal.append([{**START, "time": 9}, {"do": "close", "status": "FINISHED", "time": 12}])
    assert state_of([journal]) == RunState("FINISHED", 12)


def test_it_runs_while_its_process_does_unless_that_is_known_to_be_gone(tmp_path):
    journal = journal_with(tmp_path, {**START, "time": 3, "process": process_tags()})
    assert is_being_written(journal) and state_of([journal]) == RunState("RUNNING")
    assert state_of([journal], dead=tmp_path) == RunState("KILLED", 3, interrupted=True)
    journal.append([{"do": "close", "status": "KILLED", "time": 4}])
    assert not is_being_written(journal)


def test_a_process_of_another_machine_lives_while_it_writes(tmp_path):
    there = process_tags() | {"process.machine": "there"}
    journal = journal_with(tmp_path, {**START, "time": 3, "process": there})
    assert is_being_written(journal)
    silent = time.time() - SILENCE_LIMIT_S - 5
    os.utime(journal.lines, (silent, silent))
    assert not is_being_written(journal)
    unknown = {**START, "time": 9}
    del unknown["process"]  # of an earlier version
    assert not is_being_written(journal_with(tmp_path, unknown))


@pytest.mark.parametrize(
    ("attempts", "status"),
    [
        ([(1000, None), (5000, ("FINISHED", 6000))], "FINISHED"),  # killed, resumed, finished
        ([(1000, ("FAILED", 2000)), (5000, ("FINISHED", 6000))], "FINISHED"),
        ([(1000, ("FINISHED", 6000)), (5000, None)], "FINISHED"),  # a helper died at the end
        ([(1000, ("FINISHED", 2000)), (5000, None)], "KILLED"),  # went on with more trials
        ([(1000, ("FAILED", 2000)), (5000, ("KILLED", 6000))], "KILLED"),  # one after the other
        ([(1000, ("FAILED", 6000)), (5000, ("KILLED", 7000))], "FAILED"),  # at the same time
    ],
)
def test_of_a_shared_run_the_work_counts_whoever_died(tmp_path, attempts, status):
    for number, (start, end) in enumerate(attempts):
        records = [{**START, "time": start}]
        records += [{"do": "close", "status": end[0], "time": end[1]}] if end else []
        journal_with(tmp_path / f"process{9 - number}", *records)
    journal_with(tmp_path / "trial0", {**START, "key": "another", "time": 9000})
    found = journals_of_run(tmp_path, "k")
    assert len(found) == len(attempts)
    assert state_of(found).status == state_of(found[::-1]).status == status


@pytest.mark.parametrize("end", [None, ("FINISHED", 3000), ("FAILED", 3000)])
def test_a_shared_run_runs_while_one_of_its_processes_does(tmp_path, end):
    alive = {**START, "time": 1000, "process": process_tags()}
    other = [{**START, "time": 2000}]
    other += [{"do": "close", "status": end[0], "time": end[1]}] if end else []
    journals = [journal_with(tmp_path / "a", alive), journal_with(tmp_path / "b", *other)]
    assert state_of(journals) == state_of(journals[::-1]) == RunState("RUNNING")
