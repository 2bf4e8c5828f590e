"""Weighted sums of losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """Sum of named losses times their weights; not divided by the weights' sum.

    Args:
        terms: name -> loss.
        weights: name -> factor, for exactly these names.

    Shapes:
        logits: (B, K, X, Y, Z), before the sigmoid.
        target: (B, K, X, Y, Z).
        returns: scalar.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(terms) != set(weights) or not terms:
            raise ValueError(f"terms {sorted(terms)} and weights {sorted(weights)} differ")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = self.parts(logits, target)
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each term before weighting, for logs."""
        return {name: term(logits, target) for name, term in self.terms.items()}
