"""State of the runs of a benchmark: waiting, running, finished or failed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import filelock

from msseg_lightning.core.files import DamagedFileError, read_record, write_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.benchmark.plan import Benchmark, Job

Status = Literal["finished", "running", "failed", "waiting"]
STATUSES: tuple[Status, ...] = ("finished", "running", "failed", "waiting")


@dataclasses.dataclass(frozen=True)
class JobState:
    """State of a run.

    Args:
        status: what it is now; a run whose process was stopped waits to be continued.
        reason: why it failed, or that it was stopped.
        folder: of the run, once it began.
        date: when it ended.
        prepare_cpu_minutes: processor minutes that preparing its pairs took, where that was new.
    """

    status: Status
    reason: str = ""
    folder: Path | None = None
    date: str = ""
    prepare_cpu_minutes: float = 0.0


def state_of_job(benchmark: Benchmark, job: Job) -> JobState:
    """The state of a run; a damaged record is that of a run that waits."""
    try:
        content = read_record(_file(benchmark, job), {"status": str})
    except (OSError, DamagedFileError):
        content = {"status": "waiting"}
    folder = content.get("folder")
    place = None if folder is None else benchmark.path / folder
    status, reason = content["status"], str(content.get("reason", ""))
    if status == "running" and not is_claimed(benchmark, job):
        status, reason = "waiting", "stopped before its end; it is continued"
    if status == "finished" and not (place is not None and (place / "scores.json").is_file()):
        status, reason = "waiting", "its scores are gone; it is completed"
    return JobState(
        status=status if status in STATUSES else "waiting",
        reason=reason,
        folder=place,
        date=str(content.get("date", "")),
        prepare_cpu_minutes=float(content.get("prepare_cpu_minutes", 0.0)),
    )


def write_state(benchmark: Benchmark, job: Job, status: Status, **more: Any) -> None:
    """Write the state of a run; what is not given keeps its value."""
    file = _file(benchmark, job)
    try:
        known = read_record(file)
    except (OSError, DamagedFileError):
        known = {}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    write_record(file, {**known, "reason": "", "date": date, **more, "status": status})


@contextlib.contextmanager
def claim(benchmark: Benchmark, job: Job) -> Iterator[None]:
    """Hold a run, so that no other process begins it.

    Raises:
        MssegError: another process holds it (``run.busy``).
    """
    lock = _lock(benchmark, job)
    try:
        lock.acquire(timeout=1)  # who only looks at the states holds it for a moment
    except filelock.Timeout as error:
        raise MssegError(
            Problem(
                "run.busy",
                "another process is running in this folder",
                file=benchmark.path,
                field=str(job),
                remedy="wait for it, or use another seed, fold or paths.runs",
                exit_code=ExitCode.CONFIG,
            )
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_claimed(benchmark: Benchmark, job: Job) -> bool:
    """Whether a process holds a run."""
    lock = _lock(benchmark, job)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def _file(benchmark: Benchmark, job: Job) -> Path:
    return benchmark.state / f"{job}.json"


def _lock(benchmark: Benchmark, job: Job) -> filelock.FileLock:
    benchmark.state.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(benchmark.state / f".{job}.lock", is_singleton=False)
