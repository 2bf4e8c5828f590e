"""Leaderboard of a benchmark, and its runs with their costs."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from msseg_lightning.compare.leaderboard import Leaderboard, make_leaderboard
from msseg_lightning.compare.leaderboard_page import write_leaderboard
from msseg_lightning.compare.leaderboard_table import DASH, Section, Table, csv_text
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.wording import counted
from msseg_lightning.run.benchmark.plan import FOLDER, Benchmark, Job
from msseg_lightning.run.benchmark.state import STATUSES, JobState, state_of_job
from msseg_lightning.run.config.keys import is_path_key
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.train.curves import read_curves

RUNS = "runs.csv"
"""Table of all runs, beside the files of the leaderboard."""


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark has so far.

    Args:
        benchmark: the benchmark.
        states: of every run.
        board: of the systems of which all folds of a seed are finished; None without any.
    """

    benchmark: Benchmark
    states: Mapping[Job, JobState]
    board: Leaderboard | None

    @classmethod
    def read(cls, benchmark: Benchmark) -> BenchmarkResult:
        """Read all states, and compare what is complete.

        Raises:
            MssegError: scores that may not stand in one table.
        """
        states = {job: state_of_job(benchmark, job) for job in benchmark.jobs}
        folders = complete_runs(states)
        board = None
        if folders:
            words = [f"{Path(job.system).stem}={folder}" for job, folder in folders.items()]
            board = make_leaderboard(read_systems(words))
        return cls(benchmark, states, board)

    def write(self, folder: Path | None = None) -> list[Path]:
        """Write leaderboard and table of runs.

        Args:
            folder: that of the benchmark by default.
        """
        folder = folder or self.benchmark.path
        folder.mkdir(parents=True, exist_ok=True)
        rows = run_rows(self.states)
        with FileLock(folder / ".leaderboard.lock"):  # several processes may end at once
            files = []
            if self.board is not None:
                files = write_leaderboard(self.board, folder, self.sections())
            with atomic_write(folder / RUNS) as temporary:
                temporary.write_text(csv_text(rows), encoding="utf-8")
        return [*files, folder / RUNS]

    def for_others(self) -> BenchmarkResult:
        """The same without what may name folders and patients: settings of paths, and reasons."""
        words = [word for word in self.benchmark.words if not _names_a_place(word)]
        states = {
            job: dataclasses.replace(state, reason=state.reason.partition("]")[0].lstrip("["))
            for job, state in self.states.items()
        }
        return dataclasses.replace(self, benchmark=self.benchmark.shown(words), states=states)

    def sections(self) -> list[Section]:
        """Sections of the page of the leaderboard."""
        return [
            ("Runs", [self.protocol(), RUN_WORDS], self.runs()),
            ("Missing", [MISSING_WORDS.format(self.benchmark.continued())], self.missing()),
        ]

    def protocol(self) -> str:
        """How the systems were trained, in words."""
        words = " ".join(self.benchmark.words)
        return (
            f"Benchmark {self.benchmark.name}. Settings of all systems: {words or 'none'}. "
            f"Budget: {self.benchmark.budget}."
        )

    def counts(self) -> dict[str, int]:
        """Number of runs by state."""
        found = collections.Counter(state.status for state in self.states.values())
        return {status: found[status] for status in STATUSES}

    def runs(self) -> Table:
        """A line per finished run."""
        heads = ["System", "Fold", "Seed", "CPU min", "Device", "Peak MiB", "Params"]
        heads += ["Loss, first to last tenth", "Date", "Commit"]
        shown = []
        for row in run_rows(self.states):
            if row["state"] == "finished":
                first, last = row["loss_first_tenth"], row["loss_last_tenth"]
                shown.append(
                    [
                        str(row["system"]),
                        str(row["fold"]),
                        str(row["seed"]),
                        _number(row["cpu_minutes"], ".1f"),
                        str(row["device"] or DASH),
                        str(row["peak_mib"] or DASH),
                        _number(row["parameters"], ",d"),
                        DASH if first is None else f"{first:.3g} to {last:.3g}",
                        str(row["date"])[:10] or DASH,
                        str(row["commit"] or DASH)[:7],
                    ]
                )
        return heads, shown

    def missing(self) -> Table:
        """Runs that are not finished, with the reason and the command that trains them."""
        rows = [
            [str(job), state.status, state.reason[:400] or DASH, f"--one {job}"]
            for job, state in self.states.items()
            if state.status != "finished"
        ]
        return ["Run", "State", "Reason", "Trained alone by"], rows

    def text(self) -> str:
        """States of all runs, for a terminal."""
        counts = ", ".join(f"{number} {status}" for status, number in self.counts().items())
        lines = [f"{self.benchmark.name}: {counted(len(self.states), 'run')}: {counts}"]
        for job, state in self.states.items():
            if state.status != "waiting" or state.reason:
                when = f" {state.date}" if state.date else ""
                said = f"  {' '.join(state.reason.split())[:200]}" if state.reason else ""
                lines.append(f"  {state.status:<8} {job}{when}{said}")
        if waiting := [str(job) for job, one in self.states.items() if one.status == "waiting"]:
            more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
            lines.append(f"  waiting  {', '.join(waiting[:5])}{more}")
        return "\n".join(lines) + "\n"


MISSING_WORDS = (
    "These are not in the tables. The command of the benchmark trains them, `{}`; "
    "with the option of a row that run alone."
)
RUN_WORDS = (
    "CPU min are processor minutes of fitting, all threads together, without preparing the pairs; "
    "networks on a GPU are trained for minutes of the clock. Peak MiB is the most memory of the "
    "process that fitted and predicted. Loss is the mean over the first and the last tenth of its "
    "curve, over all networks of a system."
)


def complete_runs(states: Mapping[Job, JobState]) -> dict[Job, Path]:
    """Folders of the runs of every system and seed of which all folds are finished."""
    folds = {job.fold for job in states}
    done = {job: state.folder for job, state in states.items() if state.status == "finished"}
    return {
        job: folder
        for job, folder in done.items()
        if folder is not None and all(dataclasses.replace(job, fold=fold) in done for fold in folds)
    }


def run_rows(states: Mapping[Job, JobState]) -> list[dict[str, Any]]:
    """A row for every run with its state and costs; what is not known is None."""
    return [_row(job, state) for job, state in states.items()]


def _row(job: Job, state: JobState) -> dict[str, Any]:
    finished = state.status == "finished" and state.folder is not None
    run = RunFolder(state.folder) if finished and state.folder is not None else None
    record = {} if run is None else run.record()
    first, last = (None, None) if run is None else losses(run.fit)
    return {
        "system": Path(job.system).stem,
        "fold": job.fold,
        "seed": job.seed,
        "state": state.status,
        "reason": " ".join(state.reason.split()) or None,
        "cpu_minutes": record.get("fit_cpu_minutes"),
        "minutes": record.get("fit_minutes"),
        "prepare_cpu_minutes": state.prepare_cpu_minutes,
        "device": record.get("device"),
        "peak_mib": record.get("peak_mib"),
        "parameters": record.get("parameters"),
        "loss_first_tenth": first,
        "loss_last_tenth": last,
        "date": state.date,
        "commit": record.get("commit"),
        "repeatable": record.get("repeatable"),
    }


def losses(fit: Path) -> tuple[float, float] | tuple[None, None]:
    """Mean training loss of the first and the last tenth of each curve, over all networks."""
    found = []
    for file in sorted(fit.rglob("curves.csv")):
        values = [row["value"] for row in read_curves(file) if row["name"] == "train/loss"]
        if values:
            tenth = max(1, len(values) // 10)
            found.append((np.mean(values[:tenth]), np.mean(values[-tenth:])))
    if not found:
        return None, None
    first, last = np.mean(found, axis=0)
    return float(first), float(last)


def _names_a_place(word: str) -> bool:
    key, _, value = word.partition("=")
    return is_path_key(key.rpartition(".")[2]) or "/" in value or "root" in value


def _number(value: object, form: str) -> str:
    return DASH if value is None else f"{value:{form}}"


def benchmark_words(word: str) -> list[str] | None:
    """The complete runs of a benchmark as ``SYSTEM=FOLDER``; None where a word names none.

    Args:
        word: folder of a benchmark, or its name.

    Raises:
        MssegError: it has no complete run (exit 2).
    """
    places = [Path(word), *([] if "/" in word else [FOLDER / word])]
    path = next((one for one in places if (one / "benchmark.json").is_file()), None)
    if path is None:
        return None
    benchmark = Benchmark.of_folder(path)
    states = {job: state_of_job(benchmark, job) for job in benchmark.jobs}
    folders = complete_runs(states)
    if not folders:
        raise MssegError(
            Problem(
                "benchmark.empty",
                "no system of this benchmark is finished",
                file=path,
                expected="a system of which all folds are finished",
                remedy=f"`{benchmark.continued()}` continues it",
                exit_code=ExitCode.CONFIG,
            )
        )
    return [f"{Path(job.system).stem}={folder}" for job, folder in folders.items()]


def status_text(benchmarks: Sequence[Benchmark]) -> str:
    """A line per benchmark, for a terminal."""
    lines = []
    for one in benchmarks:
        states = collections.Counter(state_of_job(one, job).status for job in one.jobs)
        counts = ", ".join(f"{states[status]} {status}" for status in STATUSES)
        lines.append(f"{one.name}: {counted(len(one.jobs), 'run')}: {counts}\n")
    return "".join(lines) or "no benchmark was begun here\n"
