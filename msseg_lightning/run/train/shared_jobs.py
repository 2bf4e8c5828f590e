"""Distribution of runs over several processes by the locks of run folders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from msseg_lightning.core.problem import MssegError

Job = TypeVar("Job")

PAUSE_S = 2.0


def run_shared_jobs(jobs: Iterable[Job], work: Callable[[Job], None]) -> None:
    """Run all jobs; those whose run folder is locked are tried again after the others.

    Args:
        jobs: in order.
        work: runs a job, and returns at once if it was done before.
    """
    remaining = list(jobs)
    while remaining:
        busy = [job for job in remaining if not _done(job, work)]
        if len(busy) == len(remaining):
            time.sleep(PAUSE_S)
        remaining = busy


def _done(job: Job, work: Callable[[Job], None]) -> bool:
    try:
        work(job)
    except MssegError as error:
        if all(problem.code == "run.busy" for problem in error.problems):
            return False
        raise
    return True
