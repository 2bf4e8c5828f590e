"""Conversion of a two-class network to a single foreground logit."""

from __future__ import annotations

from torch import Tensor, nn


class ForegroundLogit(nn.Module):
    """Foreground minus background logit of a two-channel network.

    ``sigmoid(f - b) = exp(f) / (exp(f) + exp(b))``: the sigmoid of this one channel *is* the
    softmax probability of the foreground, and its sign is the argmax. So two-channel networks meet
    the same losses, thresholds and windows as one-channel ones, at half the memory, and nothing of
    the paper changes.

    Args:
        network: images -> (B, 2, X, Y, Z), background first.

    Shapes:
        images: (B, C, X, Y, Z).
        returns: logits (B, 1, X, Y, Z).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        if hasattr(network, "divisor"):
            self.divisor = network.divisor

    def forward(self, images: Tensor) -> Tensor:
        both = self.network(images)
        if both.shape[1] != 2:
            raise ValueError(f"expected background and foreground, got {both.shape[1]} channels")
        return both[:, 1:] - both[:, :1]
