"""Losses of patches that were padded to one size (S22)."""

from __future__ import annotations

from torch import Tensor, nn

PADDING = -1.0
"""Target of voxels that do not count."""


class WithoutPadding(nn.Module):
    """A voxelwise loss over the voxels that belong to the patches.

    Args:
        loss: mean over voxels; is given all of them in a row.

    Shapes:
        logits: (B, 1, X, Y, Z), before the sigmoid.
        target: (B, 1, X, Y, Z) in [0, 1], negative where a patch was padded.
        returns: scalar; 0 where nothing but padding is left.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = target >= 0
        if not counted.any():
            return logits.float().sum() * 0.0
        rows = (1, 1, -1, 1, 1)
        value: Tensor = self.loss(logits[counted].view(rows), target[counted].view(rows))
        return value
