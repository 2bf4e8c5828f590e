"""Early stopping."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from msseg_lightning.train.checkpoint import KeepCheckpoints


class StopWithoutProgress(L.Callback):
    """Stops training after a number of validations without a better score.

    It remembers nothing itself: when the best score was reached is known from the checkpoints, so
    a run that resumes stops at the step at which it would have stopped. Without validation pairs
    training runs its full length.

    Args:
        keep: knows the best step; must come before this in the trainer's callbacks.
        validations: how many in a row.
        every: optimiser steps between two validations.
    """

    def __init__(self, keep: KeepCheckpoints, validations: int, every: int) -> None:
        self.keep, self.steps = keep, validations * every

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop a resumed run that was interrupted just before it would have stopped."""
        self._judge(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop after a validation if there was no better score."""
        self._judge(trainer)

    def _judge(self, trainer: L.Trainer) -> None:
        waited = trainer.global_step - self.keep.best_step
        if math.isfinite(self.keep.best_score) and waited >= self.steps:
            trainer.should_stop = True
