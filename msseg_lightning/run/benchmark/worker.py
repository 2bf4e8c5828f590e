"""Work on a benchmark: one run after the other, each in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.benchmark.plan import Benchmark, Job
from msseg_lightning.run.benchmark.state import JobState, claim, state_of_job, write_state
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.data.prepare import prepare_data_set
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.train.cost import processor_s
from msseg_lightning.run.train.experiment import train_experiment
from msseg_lightning.run.train.folds_and_seeds import is_finished
from msseg_lightning.run.train.initial_weights import with_initial_weights
from msseg_lightning.run.train.shared_jobs import run_shared_jobs

log = logging.getLogger(__name__)

Start = Callable[[Sequence[str], Path, "Deadline"], int]
"""(arguments of ``msseg``, log file, deadline) -> exit code; negative where a signal ended it."""

STOPPED = (ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.PREEMPTED, ExitCode.HUNG_UP)


class Deadline:
    """The time at which work ends.

    Args:
        minutes: of the clock from now on; None for no end.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def left_s(self) -> float | None:
        """Seconds that are left; None without an end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Whether it is reached."""
        return self.left_s() == 0.0


class Worker:
    """Trains the runs of a benchmark that are missing; several processes share them.

    Args:
        benchmark: the benchmark.
        after_each: called after each run that ended, such as to write the leaderboard.
        minutes: of the clock, after which the running training is stopped and nothing is begun.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        after_each: Callable[[], object] = lambda: None,
        minutes: float | None = None,
    ) -> None:
        self.benchmark, self.after_each = benchmark, after_each
        self.deadline = Deadline(minutes)
        self._tried: set[Job] = set()

    def run(self) -> None:
        """Work until every run has ended or the time is over.

        A run that failed before is tried once more; a failed run does not stop the others.

        Raises:
            MssegError: the time is over (exit 75).
            SystemExit: a run was stopped by a signal; it is continued by the next call.
        """
        run_shared_jobs(self.benchmark.jobs, self._work)

    def _work(self, job: Job) -> None:
        if job in self._tried or state_of_job(self.benchmark, job).status == "finished":
            return
        with claim(self.benchmark, job):
            pass
        if self.deadline.over():
            raise self._time_is_over()
        place = self.benchmark.jobs.index(job) + 1
        log.info("%s: run %d of %d", job, place, len(self.benchmark.jobs))
        words = ["benchmark", self.benchmark.name, "--one", str(job)]
        words.append(f"paths.leaderboards={self.benchmark.path.parent}")
        file = self.benchmark.logs / f"{job}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        code = run_apart(words, file, self.deadline)
        state = state_of_job(self.benchmark, job)
        if state.status == "running":  # another process was faster
            return self._work(job)
        if self.deadline.over() and state.status != "finished":
            raise self._time_is_over()
        if code in STOPPED:
            raise SystemExit(code)
        self._tried.add(job)
        if state.status == "waiting":
            reason = f"its process ended with {_ending(code)}; {_last_line(file)}"
            write_state(self.benchmark, job, "failed", reason=reason)
            state = state_of_job(self.benchmark, job)
        if state.status == "failed":
            log.warning("%s failed: %s (log: %s)", job, state.reason, file)
        self.after_each()

    def _time_is_over(self) -> MssegError:
        return MssegError(
            Problem(
                "benchmark.time",
                "the minutes of --limit-minutes are over; what was done is kept",
                file=self.benchmark.path,
                remedy=f"`{self.benchmark.continued()}` continues it",
                exit_code=ExitCode.PREEMPTED,
            )
        )


def run_apart(words: Sequence[str], file: Path, deadline: Deadline) -> int:
    """Run a command of ``msseg`` in a process of its own, so that its memory is its own.

    Signals are passed on, and at the deadline the process is told to save and to end.

    Args:
        words: arguments.
        file: takes what it says, after what is there.
        deadline: of this process.

    Returns:
        Its exit code; negative where a signal ended it.
    """
    with file.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "msseg_lightning", *words], stdout=stream, stderr=stream
        )
        try:
            return process.wait(deadline.left_s())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            return process.wait()
        except BaseException as error:  # Ctrl-C reaches both processes, other signals only this
            if process.poll() is None and not isinstance(error, KeyboardInterrupt):
                process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def train_one(benchmark: Benchmark, job: Job) -> JobState:
    """Train one run of a benchmark in this process, and record how it ended.

    Raises:
        MssegError: the error of the run, or another process holds it (``run.busy``).
    """
    with claim(benchmark, job):
        known = state_of_job(benchmark, job)
        if known.status == "finished":  # by a process that was faster
            return known
        write_state(benchmark, job, "running", process=os.getpid())
        try:
            config = benchmark.config(job)
            folder = RunFolder.from_config(config)
            place = os.path.relpath(folder.path, benchmark.path)
            write_state(benchmark, job, "running", folder=place)
            if not is_finished(folder, with_initial_weights(config)):
                minutes = state_of_job(benchmark, job).prepare_cpu_minutes + _prepare(config)
                write_state(benchmark, job, "running", prepare_cpu_minutes=round(minutes, 4))
                train_experiment(config, with_report=False)  # `msseg report` writes one
        except MssegError as error:
            if error.exit_code not in STOPPED:
                write_state(benchmark, job, "failed", reason=str(error)[:2000])
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            write_state(benchmark, job, "failed", reason=reason[:2000])
            raise
        write_state(benchmark, job, "finished")
    return state_of_job(benchmark, job)


def _prepare(config: Config) -> float:
    """Prepare all pairs, which the minutes of fitting do not count; processor minutes."""
    before = processor_s()
    try:
        prepare_data_set(config).all_done()
    except MssegError as error:  # what is fitted on training pairs is prepared by the training
        if any(problem.code != "prepare.learned" for problem in error.problems):
            raise
    return (processor_s() - before) / 60


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def _last_line(file: Path) -> str:
    text = file.read_text("utf-8", "replace") if file.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"last said: {lines[-1][:300]}" if lines else "it said nothing"
