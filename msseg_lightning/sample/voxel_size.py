"""Batches of patches that know the size of their voxels (S20)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from msseg_lightning.core.batch import SPACING, Batch
from msseg_lightning.sample.loader import PatchLoader


class VoxelSizeLoader(PatchLoader):
    """Loader of patches with the edges of the case's voxels in ``extra["spacing_mm"]`` (B, 3).

    They are those of the prepared pair, whatever an augmentation does to the patch. The arguments
    are those of ``PatchLoader``.
    """

    def assemble(self, images: torch.Tensor, labels: torch.Tensor, made: Sequence[Any]) -> Batch:
        """See ``Loader``."""
        batch = super().assemble(images, labels, made)
        sizes = {subject.id: subject.grid.spacing_mm for subject in self.subjects}
        spacing = torch.tensor([sizes[name] for name in made], device=images.device)
        batch.extra = {**batch.extra, SPACING: spacing}
        return batch
