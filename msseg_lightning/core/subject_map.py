"""Apply a function to many subjects: in this process, in several, or through an executor."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Generic, Protocol, TypeVar

from msseg_lightning.core.problem import ExitCode, MssegError, Problem, disk_error, out_of_memory
from msseg_lightning.core.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = tuple[Any, tuple[Problem, ...]]
Piece = Sequence[tuple[str, Any]]
log = logging.getLogger(__name__)


class SupportsSubmit(Protocol):
    """Protocol of executors, as those of ``concurrent.futures``, Dask and submitit.

    What ``submit`` returns has ``result()`` and ``cancel()``.
    """

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Schedule a call of the function."""


@dataclasses.dataclass(frozen=True)
class MapResult(Generic[Result]):
    """Results and failures by subject.

    Args:
        done: id -> result, in the order given.
        failed: id -> why there is none, in the order given.
    """

    done: dict[str, Result]
    failed: dict[str, MssegError]

    def all_done(self) -> dict[str, Result]:
        """All results; raises if any subject failed.

        Raises:
            MssegError: with every problem of every subject that failed.
        """
        if self.failed:
            raise MssegError(
                problem for error in self.failed.values() for problem in error.problems
            )
        return self.done


def map_subjects(
    function: Callable[[Item], Result],
    subjects: Mapping[str, Item],
    executor: SupportsSubmit | int = 1,
    step: str = "map",
    pieces: int | None = None,
) -> MapResult[Result]:
    """Call a function for every subject; failures are collected and do not stop the others.

    Where it runs and in which order changes nothing as long as the function's result depends on
    its argument only. It should write its files whole (``core.files``) and return at once where
    they exist, so that a second call does only what is missing.

    A worker that dies (killed, out of memory, machine lost) does not affect other subjects: the
    subjects it had are tried once more, each by itself, and listed if that fails too.

    Args:
        function: of one subject. For other processes it must be importable, with plain values
            (``functools.partial``, a dataclass); scripts need ``if __name__ == "__main__":``.
        subjects: id -> what the function is given.
        executor: number of processes on this machine, 1 works in this one; or any executor, whose
            end is the caller's business.
        step: word for problems and the progress bar.
        pieces: into how many jobs the subjects are dealt, one each by default. Few are better
            where a job is dear to start, as on a cluster.
    """
    items = list(subjects.items())
    outcomes: dict[str, Outcome] = {}
    if executor == 1 or (isinstance(executor, int) and len(items) < 2):
        for name, item in track(items, step):
            outcomes[name] = _attempt(function, name, item, step)
    else:
        with contextlib.ExitStack() as stack:
            if isinstance(executor, int):
                executor = stack.enter_context(ProcessExecutor(min(executor, len(items))))
            count = min(pieces or len(items), len(items))
            dealt = [items[first::count] for first in range(count)]
            outcomes, lost = _collect(executor, function, step, dealt)
            if lost:
                log.warning("%d subjects lost their worker: trying each alone", len(lost))
                alone = [[(name, subjects[name])] for name in lost]
                again, lost = _collect(executor, function, step, alone)
                outcomes |= again
            outcomes |= {name: (None, (_killed(name, step, why),)) for name, why in lost.items()}
    return MapResult(
        {name: outcomes[name][0] for name in subjects if not outcomes[name][1]},
        {name: MssegError(outcomes[name][1]) for name in subjects if outcomes[name][1]},
    )


def _collect(
    executor: SupportsSubmit, function: Callable[..., Any], step: str, dealt: Sequence[Piece]
) -> tuple[dict[str, Outcome], dict[str, Exception]]:
    """Outcomes of finished pieces, and the subjects whose worker was lost."""
    outcomes: dict[str, Outcome] = {}
    lost: dict[str, Exception] = {}
    jobs: list[tuple[Piece, Any]] = []
    try:
        # submitit makes one job array of what is submitted inside its batch()
        with getattr(executor, "batch", contextlib.nullcontext)():
            for piece in dealt:
                try:
                    jobs.append((piece, executor.submit(_run_piece, function, step, piece)))
                except concurrent.futures.BrokenExecutor as error:
                    lost |= {name: error for name, _ in piece}
        for piece, job in track(jobs, step):
            try:
                outcomes |= job.result()
            except Exception as error:  # not the function's, those come back as problems
                lost |= {name: error for name, _ in piece}
    except BaseException:
        for _, job in jobs:
            job.cancel()
        raise
    return outcomes, lost


def _run_piece(function: Callable[..., Any], step: str, piece: Piece) -> dict[str, Outcome]:
    return {name: _attempt(function, name, item, step) for name, item in piece}


def _attempt(function: Callable[..., Any], name: str, item: Any, step: str) -> Outcome:
    """The result or the problems of one call; never raises."""
    try:
        return function(item), ()
    except MssegError as error:
        return None, tuple(error.problems)
    except Exception as error:
        failure = disk_error(error)
        if failure is not None or out_of_memory(error):
            return None, (
                Problem(
                    f"{step}.environment",
                    f"{name}: {failure or error or 'out of memory'}",
                    field=name,
                    remedy="check free space, memory and permissions, or name another folder, "
                    "then give the same command again: what is done is kept",
                    exit_code=ExitCode.ENVIRONMENT,
                ),
            )
        log.exception("%s: %s failed", name, step)
        return None, (
            Problem(
                f"{step}.failed",
                f"{name}: {error!r}",
                field=name,
                remedy="leave this subject out or report the error with its log",
                exit_code=ExitCode.INTERNAL,
            ),
        )


def _killed(name: str, step: str, why: Exception) -> Problem:
    return Problem(
        f"{step}.killed",
        f"{name}: its worker was lost twice",
        field=name,
        found=" ".join(f"{type(why).__name__}: {why}".split())[:300],
        remedy="free memory, this subject may need more than there is; then give the same command "
        "again",
        exit_code=ExitCode.ENVIRONMENT,
    )


class ProcessExecutor(concurrent.futures.Executor):
    """Executor with local processes; a killed process loses only its own task.

    ``ProcessPoolExecutor`` gives up all that wait as soon as one process dies, so every thread here
    has a pool of one process, and a new one after a loss. Processes are spawned: a forked one would
    inherit the locks of threads that ITK and BLAS hold.

    Args:
        workers: number of processes.
    """

    def __init__(self, workers: int) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._pools: list[concurrent.futures.ProcessPoolExecutor] = []
        self._share = max(1, (os.cpu_count() or 1) // workers)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """See ``concurrent.futures``; a lost process raises ``BrokenProcessPool``."""
        return self._threads.submit(self._call, function, *arguments, **named)

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        pool = getattr(self._own, "pool", None)
        if pool is None:
            pool = concurrent.futures.ProcessPoolExecutor(
                1, get_context("spawn"), _limit_threads, (self._share,)
            )
            self._own.pool = pool
            self._pools.append(pool)
        try:
            return pool.submit(function, *arguments, **named).result()
        except BrokenProcessPool:
            self._own.pool = None
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish running tasks, and waiting ones unless they are cancelled."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait)


def _limit_threads(share: int) -> None:
    """Limit the threads of a worker process; libraries read this when they are loaded."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
