"""Learning curves as a CSV file, and a progress display."""

from __future__ import annotations

import csv
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from msseg_lightning.core.files import atomic_write
from msseg_lightning.train.budget import TimeBudget

log = logging.getLogger(__name__)
COLUMNS = ("step", "name", "value")


class CurveFile(Logger):
    """Appends ``step,name,value`` rows; a resumed run drops rows of steps it will repeat.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")

    @property
    def name(self) -> str:
        """File name."""
        return self.path.stem

    @property
    def version(self) -> str:
        """Empty: there is one version only."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Does nothing: settings are kept in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row per metric, except ``epoch``."""
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            for name, value in metrics.items():
                if name != "epoch":
                    writer.writerow((step, name, f"{value:.8g}"))

    def drop_from(self, step: int) -> None:
        """Drop rows of steps >= ``step`` and an incomplete last line."""
        with self.path.open(newline="", encoding="utf-8", errors="replace") as stream:
            lines = (line for line in stream if "\0" not in line)
            rows = [row for row in csv.reader(lines) if len(row) == len(COLUMNS)]
        kept = [row for row in rows[1:] if row[0].isdigit() and int(row[0]) < step]
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *kept])


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Read rows with ``step`` as int and ``value`` as float; empty if the file is absent.

    The curves are for display only: a row that cannot be read is left out.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        lines = (line for line in stream if "\0" not in line)
        return [row for cells in csv.reader(lines) if (row := _row(cells)) is not None]


def _row(cells: list[str]) -> dict[str, Any] | None:
    try:
        step, name, value = cells
        return {"step": int(step), "name": name, "value": float(value)}
    except ValueError:  # the header, or what is damaged
        return None


def seconds_since_start() -> float:
    """Wall seconds since this process was started."""
    import psutil

    return time.time() - psutil.Process().create_time()


class Progress(L.Callback):
    """Progress bar on a terminal, occasional lines in a log file.

    Args:
        total: optimiser steps of the whole training.
        budget: of the training; with minutes these are shown in the place of the steps.
        interval_s: seconds between two lines where there is no terminal.
    """

    def __init__(
        self, total: int, budget: TimeBudget | None = None, interval_s: float = 15.0
    ) -> None:
        self.total, self.interval_s = total, interval_s
        self.budget = budget if budget is not None and math.isfinite(budget.limit_s) else None
        self._bar: Any = None
        self._task: Any = None
        self._began = self._reported = 0.0
        self._first = 0
        self._stepped = False

    first_fit = True
    """Whether nothing was trained in this process yet: a later fold did not wait for its start."""

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Open the bar at the current step."""
        if not trainer.is_global_zero:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._began = self._reported = time.monotonic()
        self._first = trainer.global_step
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                "training",
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                "{task.description}",
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=self._place(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Advance; the loss is read, which waits for the device, only a few times a minute."""
        if not trainer.is_global_zero:
            return
        if not self._stepped:
            self._stepped = True
            began = time.monotonic() - self._began
            if Progress.first_fit:
                log.info(
                    "first step %.1f s after the program was started, all before it included "
                    "(%.1f CPU s); %.1f s after the training began",
                    *(seconds_since_start(), time.process_time(), began),
                )
            else:
                log.info("first step %.1f s after the training began", began)
            Progress.first_fit = False
        now, step = time.monotonic(), self._place(trainer)
        due = now - self._reported > (2.0 if self._bar else self.interval_s) or step >= self.total
        if self._bar is not None:
            text = self._describe(trainer) if due else None
            self._bar.update(self._task, completed=step, **({"description": text} if text else {}))
        elif due and self.budget is not None:
            log.info(
                "step %d, %.1f of %.1f min  %s",
                *(trainer.global_step, self.budget.minutes, self.budget.limit_s / 60),
                self._describe(trainer),
            )
        elif due:
            rate = (step - self._first) / max(now - self._began, 1e-9)
            left = (self.total - step) / rate if rate else 0.0
            log.info(
                "step %d of %d  %s  %.2f steps/s, %.1f min left",
                *(step, self.total, self._describe(trainer), rate, left / 60),
            )
        if due:
            self._reported = now

    def _place(self, trainer: L.Trainer) -> int:
        """Steps so far; with a budget in minutes their share of the total."""
        return trainer.global_step if self.budget is None else self.budget.position()

    @staticmethod
    def _describe(trainer: L.Trainer) -> str:
        latest = getattr(trainer.lightning_module, "latest", {})
        shown = {
            name: float(value)
            for name, value in (latest | trainer.callback_metrics).items()  # the curve's last point
            if name in ("train/loss", "val/score", "val/dice", "val/lesion_f1")
        }
        return "  ".join(f"{name} {value:.3f}" for name, value in shown.items())

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        """Close the bar."""
        self._close()
