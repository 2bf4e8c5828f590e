"""Accuracy on patches, in addition to whole-volume scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.train.datamodule import PatchSource
from msseg_lightning.train.task import StepOutput, Task
from msseg_lightning.train.terms import sum_of_terms

HELD_BACK = "patches held back"
"""Name of the row of scores that belongs to no single pair."""


class PatchAccuracy(Task):
    """Task that logs the terms of its loss, and ``val/accuracy`` of patches (S27).

    The accuracy is the share of voxels whose answer at a probability of one half is right. It is
    taken on the same batches of every validation pair each time. Where the source of training
    batches holds patches back (``patch_split`` of ``sample.grid.GridLoader``), it is taken on these
    alone: patches of the patients that are trained on, so the number is too good, and says nothing
    about patients who were not seen.

    Args:
        cut: prepared pairs -> source of batches; called with the keyword ``subjects``. In a
            configuration it is given the sampler of training.
        batches: of each pair; of those held back, all together.
        named: the arguments of ``Task``. The loss is one for ``terms.sum_of_terms``.
    """

    def __init__(self, *, cut: Callable[..., PatchSource], batches: int = 16, **named: Any) -> None:
        super().__init__(**named)
        if batches < 1:
            raise ValueError(f"{batches} batches say nothing about the accuracy")
        self.cut, self.batches = cut, batches

    def step(self, batch: Batch) -> StepOutput:
        """The sum of the loss's terms, and these by name."""
        return sum_of_terms(self.loss, self.network(batch.images), batch.target)

    def validate(self, subject: PreparedSubject) -> dict[str, float]:
        """Scores of the whole volume, and the accuracy on its patches."""
        rows = super().validate(subject)
        if self._held_back() is None:
            rows["accuracy"] = self._accuracy(self.cut(subjects=[subject]))
        return rows

    def on_validation_epoch_end(self) -> None:
        """See ``Task``; the accuracy of patches that were held back is one more row."""
        source = self._held_back()
        if source is not None and self.global_rank == 0:
            self._val_rows[HELD_BACK] = {"accuracy": self._accuracy(source)}
        super().on_validation_epoch_end()

    def _held_back(self) -> PatchSource | None:
        patches = self.trainer.datamodule.patches  # type: ignore[attr-defined]  # of every fit
        found: PatchSource | None = patches.held_back() if hasattr(patches, "held_back") else None
        return found

    def _accuracy(self, source: PatchSource) -> float:
        right = [
            ((self.network(batch.images) > 0) == (batch.target > 0.5)).float().mean()
            for batch in (each.to(self.device) for each in source.iterate(0, self.batches))
        ]
        return float(torch.stack(right).mean())
