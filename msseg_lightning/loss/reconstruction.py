"""Reconstruction losses."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class Reconstruction(nn.Module):
    """Mean absolute or squared difference of intensities, with a weight for the corrupted part.

    The loss is the mean over all voxels plus ``region_weight`` times the mean over the voxels that
    had been replaced. Without the second term a network that copies its input is nearly right,
    since few voxels are replaced.

    Args:
        kind: ``l1`` or ``l2``.
        region_weight: of the second term, >= 0; 0 is the plain loss.

    Shapes:
        images: (B, 1, X, Y, Z), what the network made: intensities, no sigmoid.
        target: (B, 2, X, Y, Z), the true image and the mask of replaced voxels; or (B, 1, ...)
            without the mask. A batch in which nothing was replaced has the first term alone.
        returns: scalar, float32.
    """

    def __init__(self, kind: Literal["l1", "l2"] = "l1", region_weight: float = 1.0) -> None:
        super().__init__()
        if kind not in ("l1", "l2") or region_weight < 0:
            raise ValueError(f"kind {kind!r} is not l1 or l2, or {region_weight} is below 0")
        self.kind, self.region_weight = kind, region_weight

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        if images.shape[1] != 1 or target.shape[1] not in (1, 2):
            raise ValueError(f"images {tuple(images.shape)}, target {tuple(target.shape)}")
        difference = images.float() - target[:, :1].float()
        error = difference.abs() if self.kind == "l1" else difference.square()
        loss = error.mean()
        if target.shape[1] == 1 or self.region_weight == 0:
            return loss
        region = target[:, 1:].float()
        return loss + self.region_weight * (error * region).sum() / region.sum().clamp_min(1)
