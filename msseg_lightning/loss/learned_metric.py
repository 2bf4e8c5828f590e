"""A loss with a learned metric, and the loss that trains the metric."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SquaredError(nn.Module):
    """Mean squared error of estimates without a sigmoid.

    Shapes:
        estimate: (B, K).
        target: (B, K).
        returns: scalar, float32.
    """

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        if estimate.shape != target.shape:
            raise ValueError(f"estimate {tuple(estimate.shape)}, target {tuple(target.shape)}")
        return (estimate.float() - target.float()).square().mean()


class LearnedMetric(nn.Module):
    """An overlap loss plus a metric that a frozen network estimates (S08).

    ``L = overlap(p, g) + alpha * (1 - F(p, g))`` with p the sigmoid of the logits, g the target and
    F a network that estimates the lesion-wise F1 of the two. F's weights never move; the gradient
    passes through it to p.

    Args:
        overlap: ``(logits, target) -> scalar``; one minus Dice in the paper.
        alpha: weight of the second term, >= 0; 0 is the overlap loss itself.
        metric: ``(B, 2, X, Y, Z) -> (B, 1)`` in [0, 1], map first. It is frozen here. None where no
            loss is computed, as in a system loaded for prediction.

    Shapes:
        logits: (B, 1, X, Y, Z), before the sigmoid.
        target: (B, 1, X, Y, Z).
        returns: scalar, float32.
    """

    def __init__(self, overlap: nn.Module, alpha: float, metric: nn.Module | None = None) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}, below 0")
        self.overlap, self.alpha = overlap, alpha
        self.metric = None if metric is None else metric.requires_grad_(False).eval()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.overlap(logits, target)
        if self.alpha == 0:
            return loss
        return loss + self.alpha * (1 - self.agreement(logits, target)).mean()

    def agreement(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, 1) float32, the estimated F1 of each patch."""
        if self.metric is None:
            raise ValueError("the metric network is missing: fit its stage, or set alpha to 0")
        pair = torch.cat([logits.float().sigmoid(), target.float()], dim=1)
        agreement: Tensor = self.metric(pair)
        return agreement.float()

    def train(self, mode: bool = True) -> LearnedMetric:
        """Set the mode of the loss; the metric stays in evaluation mode."""
        super().train(mode)
        if self.metric is not None:
            self.metric.eval()
        return self
