"""Processes share runs through the locks of their folders."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.run.train.shared_jobs import run_shared_jobs


def test_two_processes_share_the_runs():
    """A run that another process owns comes again when the others are done."""
    busy, done = {1}, []

    def work(job):
        if job in busy:
            busy.clear()
            raise MssegError(Problem("run.busy", "another process is running in this folder"))
        done.append(job)

    run_shared_jobs([0, 1, 2], work)
    assert done == [0, 2, 1]
    with pytest.raises(MssegError, match="other"):
        run_shared_jobs([0], lambda job: (_ for _ in ()).throw(MssegError(Problem("x", "other"))))
