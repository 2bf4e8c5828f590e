"""Overlap losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class SoftDice(nn.Module):
    """One minus the Dice coefficient of probabilities.

    Over the voxels of a patch, with p the sigmoid of the logits and g the target, the loss is
    ``1 - (2 * sum(p g) + smooth) / (sum(p) + sum(g) + smooth)``; with squared denominator
    ``sum(p^2) + sum(g^2)`` (Milletari et al. 2016). Sums are float32 whatever the precision of the
    logits: float16 overflows at 65,504 voxels, a 41^3 patch.

    A patch without lesions. ``smooth`` decides what such a patch costs: its loss is
    ``1 - smooth / (sum(p) + smooth)``, i.e. nearly 1 until the probabilities sum to less than
    ``smooth``, then falling to 0. A large value (1) makes lesion-free patches teach gently, a tiny
    one (1e-5) leaves them almost without gradient, 0 has none that is defined. With
    ``empty="ignore"`` such patches cost nothing at all.

    Args:
        squared_denominator: sum squares below the fraction.
        smooth: added above and below the fraction, in voxels, > 0.
        reduction: ``sample`` computes the fraction for each patch and takes the mean, ``batch``
            sums over all patches first, so that a batch with one lesion is one problem.
        empty: ``count`` patches without lesion as the formula says, or ``ignore`` them (with
            ``reduction="batch"``: ignore a batch without any).
        background: take the mean with the same fraction of the background, ``1 - p`` against
            ``1 - g``, as losses over both classes of a softmax do.
        activation: ``sigmoid``, or ``none`` of a network whose answer is p itself (S17).

    Shapes:
        logits: (B, K, X, Y, Z), before the activation; each channel is a fraction of its own.
        target: (B, K, X, Y, Z), in [0, 1]; raters may disagree.
        returns: scalar.

    Reference:
        Milletari et al. 2016, https://arxiv.org/abs/1606.04797
    """

    def __init__(
        self,
        squared_denominator: bool,
        smooth: float,
        reduction: Literal["sample", "batch"] = "sample",
        empty: Literal["count", "ignore"] = "count",
        background: bool = False,
        activation: Literal["sigmoid", "none"] = "sigmoid",
    ) -> None:
        super().__init__()
        if activation not in ("sigmoid", "none"):
            raise ValueError(f"activation {activation!r} is not sigmoid or none")
        if smooth <= 0:
            raise ValueError(f"smooth is {smooth}; without it an empty patch divides 0 by 0")
        if reduction not in ("sample", "batch") or empty not in ("count", "ignore"):
            raise ValueError(f"unknown reduction {reduction!r} or empty {empty!r}")
        self.squared_denominator, self.smooth = squared_denominator, smooth
        self.reduction, self.empty, self.background = reduction, empty, background
        self.activation = activation

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape != target.shape:
            raise ValueError(f"logits {tuple(logits.shape)}, target {tuple(target.shape)}")
        given = self.activation == "none"
        probability = logits.float() if given else logits.float().sigmoid()
        target = target.float()
        if self.background:
            # the sigmoid of -z, not 1 - p: exact where p rounds to 1
            other = 1 - probability if given else (-logits.float()).sigmoid()
            probability = torch.cat([probability, other], dim=1)
            target = torch.cat([target, 1 - target], dim=1)
        axes = list(range(2, logits.ndim)) + ([0] if self.reduction == "batch" else [])
        hit = (probability * target).sum(axes)  # (B, K) or (K,)
        lesion = target.sum(axes)
        if self.squared_denominator:
            total = probability.square().sum(axes) + target.square().sum(axes)
        else:
            total = probability.sum(axes) + lesion
        loss = 1 - (2 * hit + self.smooth) / (total + self.smooth)
        if self.empty == "count":
            return loss.mean()
        present = (lesion > 0).float()  # a weight, not an index: no wait for the device
        return (loss * present).sum() / present.sum().clamp_min(1)
