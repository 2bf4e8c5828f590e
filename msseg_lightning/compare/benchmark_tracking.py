"""Leaderboards in MLflow: a benchmark with a child per system, and all folds of a system."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from msseg_lightning.compare.benchmark import RUNS, BenchmarkResult
from msseg_lightning.compare.leaderboard import Leaderboard, make_leaderboard, paragraphs
from msseg_lightning.compare.leaderboard_page import write_leaderboard
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.core.files import require_record
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.benchmark.plan import Benchmark, is_of_tracking
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.train.mlflow_run import end_status, experiment_run, rounded

NAMES = {
    "f1": "lesion_f1",
    "dice": "dice",
    "sensitivity": "lesion_sensitivity",
    "precision": "lesion_precision",
    "false_lesions": "false_lesions_per_case_without",
}
"""Measure of a leaderboard -> name of its metric, as in the runs of folds."""


def tracking_of(benchmark: Benchmark) -> Any:
    """The tracking settings of a benchmark; None where it is not tracked."""
    words = [word for word in benchmark.words if is_of_tracking(word)]
    return instantiate(compose_config(words, complete=False).get("track")) or None


class BenchmarkTracking:
    """Records a benchmark in MLflow.

    Args:
        tracking: tracking settings.
        benchmark: the benchmark.
    """

    def __init__(self, tracking: Any, benchmark: Benchmark) -> None:
        self.tracking, self.benchmark = tracking, benchmark
        self.folder = benchmark.path / "track"
        self.name = f"benchmark-{benchmark.name}"
        self.tags = {"benchmark": benchmark.name, "level": "benchmark"}

    @contextlib.contextmanager
    def run(self) -> Iterator[Callable[[BenchmarkResult], None]]:
        """Open the run of the benchmark, which all processes share; yields what logs a result."""
        from msseg_lightning.track.journal import run_key
        from msseg_lightning.track.process import process_tags

        process = process_tags()  # processes of several machines may have the same number
        tracker = self.tracking.start(
            "msseg",
            self.name,
            spool=self.folder / f"process-{process['process.machine']}-{process['process.pid']}",
            key=run_key(self.folder),
            tags=self.tags,
            params={
                "systems": len(self.benchmark.systems),
                "runs": len(self.benchmark.jobs),
                "budget": str(self.benchmark.budget),
            },
        )

        def log(result: BenchmarkResult) -> None:
            self._log(tracker, result)

        try:
            yield log
        except BaseException as error:
            tracker.finish(end_status(error))
            raise
        tracker.finish("FINISHED")

    def _log(self, tracker: Any, result: BenchmarkResult) -> None:
        place = self.folder / "leaderboard"  # without names of folders and patients
        result.for_others().write(place)
        tracker.log_artifact(place / RUNS, "leaderboard")
        counts = result.counts()
        tracker.set_tags({f"runs_{status}": number for status, number in counts.items()})
        if result.board is None:
            return
        log_leaderboard(tracker, result.board, place)
        for system in result.board.order:
            self._log_system(system, result.board)

    def _log_system(self, system: str, board: Leaderboard) -> None:
        from msseg_lightning.track.tracker import Parent

        spool = self.folder / f"system-{system}"
        spool.mkdir(parents=True, exist_ok=True)
        with FileLock(spool / "log.lock"):  # several processes may end at the same time
            tracker = self.tracking.start(
                "msseg",
                f"{self.name}-{system}",
                spool=spool,
                parent=Parent(self.folder, self.name, self.tags),
                tags={**self.tags, "level": "benchmark_system", "system": system},
            )
            tracker.log_metrics(rounded(system_metrics(board, system)))
            tracker.set_tags({"group": _letters(board, system)})
            tracker.finish("FINISHED")


def _letters(board: Leaderboard, system: str) -> str:
    found = board.result(board.measure, system)
    return "" if found is None else found.letters


def system_metrics(board: Leaderboard, system: str) -> dict[str, float]:
    """Figures of a system with their intervals, its rank and its costs."""
    found: dict[str, float | None] = {}
    for measure, name in NAMES.items():
        if (one := board.result(measure, system)) is not None:
            low, high = one.interval or (None, None)
            found |= {
                f"result/{name}": one.mean,
                f"result/{name}_low": low,
                f"result/{name}_high": high,
            }
    if (ranked := board.result(board.measure, system)) is not None:
        found |= {"result/rank": ranked.rank, "result/first_share": ranked.first}
    cost = board.lines[system].cost
    found |= {
        "cost/cpu_minutes": cost.cpu_minutes,
        "cost/peak_mib": cost.peak_mib,
        "cost/parameters": cost.parameters,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def log_leaderboard(tracker: Any, board: Leaderboard, folder: Path) -> None:
    """Log words, leaderboard and pictures, under the same names in every run."""
    tracker.set_tags({"mlflow.note.content": "\n\n".join(paragraphs(board))})
    for file in sorted(folder.glob("leaderboard.*")):
        tracker.log_artifact(file, "leaderboard")
    for file in sorted(folder.glob("*.svg")):
        tracker.log_artifact(file, "pictures")


def track_all_folds(folders: Sequence[Path]) -> None:
    """Log a leaderboard and its pictures in the parent run of each seed of a system.

    Args:
        folders: one per seed, from ``run.train.folds_and_seeds.train_multirun``.
    """
    from msseg_lightning.track.journal import run_key

    for folder in folders:
        run = _first_fold(folder)
        config = run.config()
        tracking = instantiate(config.get("track")) or None
        if tracking is None:
            continue
        board = make_leaderboard(read_systems([str(folder)]))
        place = folder / "track"
        write_leaderboard(board, place / "leaderboard")
        parent = experiment_run(config, run)
        tracker = tracking.start(
            "msseg",
            parent.name,
            spool=place / "experiment",
            key=run_key(parent.folder),
            tags=parent.tags,
        )
        log_leaderboard(tracker, board, place / "leaderboard")
        tracker.finish("FINISHED")


def _first_fold(folder: Path) -> RunFolder:
    """A run of the table of a seed."""
    remedy = "give the `msseg train` command of all folds again"
    origin = require_record(folder / "out_of_fold.json", remedy)
    return RunFolder(folder.parent / min(str(one["run"]) for one in origin.values()))
