"""Atomic checkpoints that are loaded as weights only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from msseg_lightning.core.files import (
    DamagedFileError,
    append_checksum,
    atomic_write,
    damaged_file,
    verify_checksum,
)
from msseg_lightning.core.problem import ExitCode, MssegError, Problem

LAST = "last.ckpt"
BEST = "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes atomically and adds a checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically, with a checksum at its end."""
        with atomic_write(Path(path)) as temporary:
            torch.save(checkpoint, temporary)
            append_checksum(temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint with ``weights_only=True``."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load the content of a checkpoint.

    Raises:
        MssegError: the file is missing or damaged (exit 4), or holds more than tensors and plain
            values (exit 6).
    """
    import pickle

    remedy = (
        f"restore a copy, or delete the folder {path.parent} and give the `msseg train` command "
        "again: it fits from the beginning"
    )
    try:
        verify_checksum(path)
        with path.open("rb") as stream:
            if not stream.read(2).startswith((b"PK", b"\x80")):  # no archive and no pickle
                raise DamagedFileError("no checkpoint")
    except (OSError, DamagedFileError) as error:
        raise damaged_file(path, error, remedy) from error
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise MssegError(
            Problem(
                "checkpoint.unsafe",
                "the checkpoint holds objects that could run code; it was not loaded",
                file=path,
                found=str(error).splitlines()[0][:200],
                expected="tensors and plain values",
                remedy="train again, or export the weights as safetensors where they were made",
                exit_code=ExitCode.SECURITY,
            )
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise damaged_file(path, error, remedy) from error


class KeepCheckpoints(L.Callback):
    """Writes ``last.ckpt`` after validations and at intervals, and ``best.ckpt`` by a score.

    Without validation pairs the last weights are the best.

    Args:
        folder: where both lie.
        monitor: logged name, larger is better.
        minutes: longest time whose work a crash may cost.
    """

    def __init__(self, folder: Path, monitor: str = "val/score", minutes: float = 10.0) -> None:
        self.folder, self.monitor, self.minutes = folder, monitor, minutes
        self.best_score = float("-inf")
        self.best_step = -1
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """State that is stored in the checkpoint."""
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.best_score = float(state_dict["best_score"])
        self.best_step = int(state_dict["best_step"])

    def due(self) -> bool:
        """Whether a checkpoint is due by time (see ``interruption.StopOnSignal``)."""
        return time.monotonic() - self._saved_at > 60 * self.minutes

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write ``best.ckpt`` if the score improved, then ``last.ckpt``."""
        score = trainer.callback_metrics.get(self.monitor)
        if score is not None and float(score) > self.best_score:
            self.best_score, self.best_step = float(score), trainer.global_step
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        self.save_last(trainer)

    def save_last(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt``."""
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self._saved_at = time.monotonic()
