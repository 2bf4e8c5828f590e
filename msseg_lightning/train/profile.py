"""Profile of the time that parts of a training take."""

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

BACKGROUND_PARTS = ("place patches", "read and augment")
"""Parts that run in threads of the loader, in parallel with training."""
SEQUENTIAL_PARTS = (
    "wait for a batch",
    "move to the device",
    "forward and loss",
    "backward",
    "clip and update",
    "log and track",
    "checkpoint",
    "validate",
)
"""Parts that run in sequence; with ``other`` they add up to the time of the training."""


class Clock:
    """Adds up wall seconds by part; parts may be timed from several threads."""

    def __init__(self) -> None:
        self.seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._lock = threading.Lock()

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part."""
        with self._lock:
            self.seconds[part] += seconds

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - start)


class Timed:
    """Proxy of an object that times some of its methods.

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
    """Callback that measures parts of a training and logs a table at its end.

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
            ("sampler", {"draw": BACKGROUND_PARTS[0]}),
            ("augment", {"fill": BACKGROUND_PARTS[1]}),
        ):
            inner = getattr(data.patches, name, None)
            if inner is not None:
                setattr(data.patches, name, Timed(inner, self.clock, parts))

    # ------------------------------------------------------------------ Lightning's order of a step
    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start measuring."""
        self._watch(trainer)
        self._began = self._mark = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin a step."""
        self._mark = _now()

    def on_before_backward(self, *_: Any) -> None:
        """End of the forward pass."""
        self._until("forward and loss")

    def on_after_backward(self, *_: Any) -> None:
        """End of the backward pass."""
        self._until("backward")

    def on_train_batch_end(self, *_: Any) -> None:
        """End of the optimiser step."""
        self._until("clip and update")
        self.steps += 1

    def on_validation_start(self, *_: Any) -> None:
        """Start of validation."""
        self._mark = _now()

    def on_validation_end(self, *_: Any) -> None:
        """End of validation."""
        self._until("validate")

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Log the table and the seconds of all parts."""
        self.total_s = time.perf_counter() - self._began
        if not trainer.is_global_zero:
            return
        log.info("%s", self.table())
        metrics = {f"profile/{_key(part)}_s": value for part, value in self.parts().items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    # ----------------------------------------------------------------------------------- results
    def parts(self) -> dict[str, float]:
        """Seconds by part: sequential parts, ``other``, and background parts."""
        line = {part: self.clock.seconds[part] for part in SEQUENTIAL_PARTS}
        line["other"] = max(0.0, self.total_s - sum(line.values()))
        return line | {part: self.clock.seconds[part] for part in BACKGROUND_PARTS}

    def table(self) -> str:
        """The result as a text table."""
        total, steps = max(self.total_s, 1e-9), max(self.steps, 1)
        lines = [
            f"where the time went: {self.steps} batches in {self.total_s:.1f} s",
            f"  {'':<22}{'s':>9}{'share':>8}{'ms/batch':>10}",
        ]
        for part, seconds in self.parts().items():
            note = "  in background threads" if part in BACKGROUND_PARTS else ""
            lines.append(
                f"  {part:<22}{seconds:>9.2f}{seconds / total:>8.1%}{seconds / steps * 1e3:>10.2f}"
                f"{note}"
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
