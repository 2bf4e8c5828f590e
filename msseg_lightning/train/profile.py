"""Where the time of a training goes: reading, waiting, the step, validation, tracking."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch

from msseg_lightning.train.datamodule import LongitudinalDataModule

log = logging.getLogger(__name__)

BESIDE = ("place patches", "read and augment")
"""Work of the loader's threads; it costs nothing while nobody waits for it."""
IN_LINE = (
    "wait for a batch",
    "move to the device",
    "forward and loss",
    "backward",
    "clip and update",
    "log and track",
    "checkpoint",
    "validate",
)
"""Parts that follow one another; with ``other`` they add up to the time of the training."""


class Clock:
    """Adds up wall seconds by part; parts may be timed from several threads."""

    def __init__(self) -> None:
        self.seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._lock = threading.Lock()

    def add(self, part: str, seconds: float) -> None:
        """Count one stretch of time."""
        with self._lock:
            self.seconds[part] += seconds

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count what happens inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - start)


class Timed:
    """Stands in for an object and times some of its methods.

    Args:
        inner: the object.
        clock: counts.
        parts: method -> part.
    """

    def __init__(self, inner: Any, clock: Clock, parts: Mapping[str, str]) -> None:
        self.inner, self.clock, self.parts = inner, clock, dict(parts)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in self.parts:
            return found

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.clock.time(self.parts[name]):
                return found(*arguments, **named)

        return timed


class Profile(L.Callback):
    """Times a training and says at its end where the time went.

    On a GPU the device is waited for between two parts, so that each is charged for its own work;
    such a training is a little slower than an unwatched one. On a CPU a step costs some
    microseconds more. Reading and augmentation are one pass over the memory map and are timed
    together, as the sum over the loader's threads.

    Args:
        data: its waiting time and its threads are watched.
    """

    def __init__(self, data: LongitudinalDataModule) -> None:
        self.clock = Clock()
        self.steps = 0
        self.total_s = 0.0
        self._mark = self._began = 0.0
        data.clock = self.clock
        for name, parts in (
            ("sampler", {"draw": BESIDE[0]}),
            ("augment", {"fill": BESIDE[1]}),
        ):
            inner = getattr(data.patches, name, None)
            if inner is not None:
                setattr(data.patches, name, Timed(inner, self.clock, parts))

    # ------------------------------------------------------------------ Lightning's order of a step
    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """From here on time counts."""
        self._watch(trainer)
        self._began = self._mark = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """Everything since the last step was waiting, moving or other."""
        self._mark = _now()

    def on_before_backward(self, *_: Any) -> None:
        """The loss is known."""
        self._until("forward and loss")

    def on_after_backward(self, *_: Any) -> None:
        """Gradients are known."""
        self._until("backward")

    def on_train_batch_end(self, *_: Any) -> None:
        """The weights have moved."""
        self._until("clip and update")
        self.steps += 1

    def on_validation_start(self, *_: Any) -> None:
        """Whole volumes begin."""
        self._mark = _now()

    def on_validation_end(self, *_: Any) -> None:
        """Whole volumes end."""
        self._until("validate")

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say it, and give it to the loggers."""
        self.total_s = time.perf_counter() - self._began
        if not trainer.is_global_zero:
            return
        log.info("%s", self.table())
        metrics = {f"profile/{_key(part)}_s": value for part, value in self.parts().items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    # ----------------------------------------------------------------------------------- results
    def parts(self) -> dict[str, float]:
        """Seconds by part: of the line, ``other``, and of the threads beside it."""
        line = {part: self.clock.seconds[part] for part in IN_LINE}
        line["other"] = max(0.0, self.total_s - sum(line.values()))
        return line | {part: self.clock.seconds[part] for part in BESIDE}

    def table(self) -> str:
        """The result for people."""
        total, steps = max(self.total_s, 1e-9), max(self.steps, 1)
        lines = [
            f"where the time went: {self.steps} batches in {self.total_s:.1f} s",
            f"  {'':<22}{'s':>9}{'share':>8}{'ms/batch':>10}",
        ]
        for part, seconds in self.parts().items():
            beside = "  in threads, beside the line" if part in BESIDE else ""
            lines.append(
                f"  {part:<22}{seconds:>9.2f}{seconds / total:>8.1%}{seconds / steps * 1e3:>10.2f}"
                f"{beside}"
            )
        return "\n".join(lines)

    def _until(self, part: str) -> None:
        now = _now()
        self.clock.add(part, now - self._mark)
        self._mark = now

    def _watch(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            _replace(logger, "log_metrics", self.clock, "log and track")
        _replace(trainer, "save_checkpoint", self.clock, "checkpoint")
        _replace(trainer.strategy, "batch_to_device", self.clock, "move to the device")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _replace(owner: Any, method: str, clock: Clock, part: str) -> None:
    original = getattr(owner, method)

    def timed(*arguments: Any, **named: Any) -> Any:
        with clock.time(part):
            return original(*arguments, **named)

    setattr(owner, method, timed)


def _key(part: str) -> str:
    return part.replace(" ", "_")
