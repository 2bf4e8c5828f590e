"""Squared error of a tanh output."""

from __future__ import annotations

from torch import Tensor, nn


class TanhL2(nn.Module):
    """Mean squared distance between ``tanh(x)`` and a mask mapped to -1 and +1.

    Networks here return logits, of which ``sigmoid(2x) = (tanh(x) + 1) / 2`` is the probability,
    so a network with a tanh output gives ``2x`` (see ``network.fc_densenet``) and this loss takes
    ``tanh(logits / 2)``. It equals 4 times the mean squared error of probabilities.

    Args:
        weight: factor on the mean.

    Shapes:
        logits: (B, K, X, Y[, Z]), twice what enters the tanh.
        target: (B, K, X, Y[, Z]), in [0, 1]; 0 is mapped to -1, 1 to +1.
        returns: scalar, mean over all voxels.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight is {weight}, not above 0")
        self.weight = weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape != target.shape:
            raise ValueError(f"logits {tuple(logits.shape)}, target {tuple(target.shape)}")
        distance = (logits.float() / 2).tanh() - (2 * target.float() - 1)
        return self.weight * distance.square().mean()
