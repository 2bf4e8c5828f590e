"""Results do not depend on the executor; a lost worker does not affect other subjects."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from pathlib import Path

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject_map import ProcessExecutor, map_subjects

SUBJECTS = {f"p{number}": number for number in (3, 1, 2, 0)}


def square(number):
    return number * number


def treat(folder, number):
    """1 is refused, 2 finds no space, 3 is a mistake of ours; others leave a file."""
    if number == 1:
        raise MssegError(Problem("image.bad", "cannot be read", exit_code=ExitCode.DATA))
    if number == 2:
        raise OSError(28, "No space left on device")
    if number == 3:
        raise ValueError("a mistake")
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    return number


def die_once(folder, number):
    """The process that gets 2 is killed, the first time only."""
    mark = Path(folder) / "died"
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return number * number


@pytest.mark.parametrize("executor", [1, 2], ids=["here", "processes"])
def test_results_stand_in_the_order_given(executor):
    mapped = map_subjects(square, SUBJECTS, executor)
    assert list(mapped.done.items()) == [("p3", 9), ("p1", 1), ("p2", 4), ("p0", 0)]
    assert not mapped.failed and mapped.all_done() is mapped.done


@pytest.mark.parametrize("pieces", [None, 1, 2, 3, 9])
def test_any_executor_and_any_division_give_the_same(pieces):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        mapped = map_subjects(square, SUBJECTS, pool, pieces=pieces)
    assert list(mapped.done.items()) == [("p3", 9), ("p1", 1), ("p2", 4), ("p0", 0)]


@pytest.mark.parametrize("executor", [1, 2], ids=["here", "processes"])
def test_failures_are_listed_and_the_others_are_done(executor, tmp_path):
    subjects = {f"p{number}": number for number in range(5)}
    mapped = map_subjects(functools.partial(treat, tmp_path), subjects, executor, "predict")
    assert mapped.done == {"p0": 0, "p4": 4}
    codes = {name: error.problems[0].code for name, error in mapped.failed.items()}
    assert codes == {"p1": "image.bad", "p2": "predict.environment", "p3": "predict.failed"}
    assert {file.name[0] for file in tmp_path.iterdir()} == {"0", "4"}
    with pytest.raises(MssegError, match=r"p2.*No space") as caught:
        mapped.all_done()
    assert len(caught.value.problems) == 3


def test_a_killed_process_changes_nothing(tmp_path):
    mapped = map_subjects(functools.partial(die_once, tmp_path), SUBJECTS, 2)
    assert (tmp_path / "died").exists()
    assert mapped.done == {"p3": 9, "p1": 1, "p2": 4, "p0": 0}


def test_who_kills_every_worker_is_named_alone(tmp_path):
    mapped = map_subjects(kill_for_two, SUBJECTS, 2, "prepare")
    assert mapped.done == {"p3": 3, "p1": 1, "p0": 0}
    (problem,) = mapped.failed["p2"].problems
    assert problem.code == "prepare.killed" and problem.exit_code == ExitCode.ENVIRONMENT


def kill_for_two(number):
    if number == 2:
        os.kill(os.getpid(), 9)
    return number


def test_a_broken_executor_lists_what_it_lost(tmp_path):
    """An executor of the caller's is not replaced: the same call with a new one completes it."""
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        mapped = map_subjects(functools.partial(die_once, tmp_path), SUBJECTS, pool)
    lost = {name for name, error in mapped.failed.items() if error.problems[0].code == "map.killed"}
    assert "p2" in lost and lost | set(mapped.done) == set(SUBJECTS)
    again = map_subjects(functools.partial(die_once, tmp_path), SUBJECTS, 1)
    assert again.done == {"p3": 9, "p1": 1, "p2": 4, "p0": 0}


def test_an_interruption_leaves_at_once():
    """Ctrl-C comes as an exception in this process; nothing further is started."""

    def interrupted(number):
        if number == 1:
            raise KeyboardInterrupt
        assert number == 3
        return number

    with pytest.raises(KeyboardInterrupt):
        map_subjects(interrupted, SUBJECTS)


def test_processes_keep_their_libraries_to_few_threads():
    with ProcessExecutor(2) as pool:
        assert pool.submit(os.getenv, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS").result() == "1"


def test_a_dask_client_is_an_executor():
    distributed = pytest.importorskip("distributed")
    with distributed.Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as client:
        mapped = map_subjects(square, SUBJECTS, client.get_executor(), pieces=2)
    assert list(mapped.done.items()) == [("p3", 9), ("p1", 1), ("p2", 4), ("p0", 0)]


def test_submitit_is_an_executor(tmp_path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(tmp_path / "%j")
    mapped = map_subjects(square, SUBJECTS, executor, pieces=2)
    assert list(mapped.done.items()) == [("p3", 9), ("p1", 1), ("p2", 4), ("p0", 0)]
    assert len(list(tmp_path.glob("*/*_result.pkl"))) == 2  # an array of two jobs
