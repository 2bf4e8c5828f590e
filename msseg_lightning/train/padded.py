"""Training on patches that were padded to one size (S22)."""

from __future__ import annotations

from torch import Tensor

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.task import StepOutput, Task

WITHIN = "within"
"""Name in ``Batch.extra``: 1 in the voxels of a patch, 0 where it was padded."""


class PaddedTask(Task):
    """Task whose loss, a mean over voxels, leaves out those that were padded.

    Batches have ``extra["within"]`` (B, 1, X, Y, Z), as those of ``sample.candidate_boxes``. The
    loss is given all voxels that count in a row, (1, 1, n, 1, 1).
    """

    def step(self, batch: Batch) -> StepOutput:
        """Loss of the voxels that belong to the patches."""
        counted = batch.extra[WITHIN] > 0

        def in_a_row(values: Tensor) -> Tensor:
            return values[counted].view(1, 1, -1, 1, 1)

        logits = in_a_row(self.network(batch.images))
        return StepOutput(self.loss(logits, in_a_row(batch.target)), {})
