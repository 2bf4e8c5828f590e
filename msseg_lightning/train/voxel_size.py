"""Training of networks that are told the size of voxels (S20)."""

from __future__ import annotations

from msseg_lightning.core.batch import SPACING, Batch
from msseg_lightning.train.task import StepOutput, Task


class VoxelSizeTask(Task):
    """Task whose network is given the size of the case's voxels beside the images.

    Batches have ``extra["spacing_mm"]`` (B, 3), as those of ``sample.voxel_size``. The arguments
    are those of ``Task``.
    """

    def step(self, batch: Batch) -> StepOutput:
        """See ``Task``."""
        output = self.network(batch.images, batch.extra[SPACING])
        return StepOutput(self.loss(output, batch.target), {})
