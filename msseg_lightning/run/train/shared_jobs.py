"""Runs that are shared by several processes through the locks of run folders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from msseg_lightning.core.problem import MssegError

Job = TypeVar("Job")

PAUSE_S = 2.0


def run_shared_jobs(jobs: Iterable[Job], work: Callable[[Job], None]) -> None:
    """Do all jobs; those whose run folder is locked are tried again after the others.

    Args:
        jobs: in the order wanted.
        work: does one; quick where it was done before.
    """
    left = list(jobs)
    while left:
        busy = [job for job in left if not _done(job, work)]
        if len(busy) == len(left):
            time.sleep(PAUSE_S)
        left = busy


def _done(job: Job, work: Callable[[Job], None]) -> bool:
    try:
        work(job)
    except MssegError as error:
        if all(problem.code == "run.busy" for problem in error.problems):
            return False
        raise
    return True
