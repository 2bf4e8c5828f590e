"""Validation loss, in addition to whole-volume scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.train.datamodule import PatchSource
from msseg_lightning.train.task import Task


class ValidationLossTask(Task):
    """Task that also computes ``val/loss``, for learning rate schedulers.

    Scores of whole volumes stay at 0 until the first lesion is found, and a rate that fell
    whenever they stand still would fall long before that; the loss moves from the first step.
    It is taken on the same few batches of every validation pair each time.

    Args:
        cut: prepared pairs -> source of batches, e.g. a loader without augmentation; called with
            the keyword ``subjects``. In a configuration it is given the sampler of training.
        batches: of each pair.
        monitor: what a ``ReduceLROnPlateau`` reads, ``loss`` or a score.
        named: the arguments of ``Task``.
    """

    def __init__(
        self,
        *,
        cut: Callable[..., PatchSource],
        batches: int = 4,
        monitor: str = "loss",
        **named: Any,
    ) -> None:
        super().__init__(monitor=monitor, **named)
        if batches < 1:
            raise ValueError(f"{batches} batches say nothing about the loss")
        self.cut, self.batches = cut, batches

    def validate(self, subject: PreparedSubject) -> dict[str, float]:
        """Scores of the whole volume, and the loss on its patches."""
        return super().validate(subject) | {"loss": self._loss_of([subject])}

    def _loss_of(self, subjects: Sequence[PreparedSubject]) -> float:
        source = self.cut(subjects=subjects)
        losses = [
            self.step(batch.to(self.device)).loss.detach().float()
            for batch in source.iterate(0, self.batches)
        ]
        return float(torch.stack(losses).mean())
