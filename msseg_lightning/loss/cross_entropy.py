"""Voxelwise cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossEntropy(nn.Module):
    """Binary cross-entropy with a weight per class.

    A voxel costs ``-(lesion * g * log p + background * (1 - g) * log(1 - p))``, p the sigmoid of
    the logit: the cross-entropy of a softmax over background and lesion. Computed from logits in
    float32, so that confident answers neither overflow nor lose their gradient. A patch without
    lesions is nothing special: its background voxels count.

    Args:
        background: weight of background voxels, >= 0.
        lesion: weight of lesion voxels, >= 0.
        mean_over_classes: divide by the two classes too, as a mean over the channels of a
            softmax does (S13).

    Shapes:
        logits: (B, K, X, Y, Z), before the sigmoid.
        target: (B, K, X, Y, Z), in [0, 1].
        returns: scalar, mean over all voxels (not divided by the weights).
    """

    def __init__(
        self, background: float = 1.0, lesion: float = 1.0, mean_over_classes: bool = False
    ) -> None:
        super().__init__()
        if background < 0 or lesion < 0 or not background + lesion:
            raise ValueError(f"weights {background} and {lesion}: none below 0, not both 0")
        share = 0.5 if mean_over_classes else 1.0
        self.background, self.lesion = share * background, share * lesion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return weighted_mean(logits, target, self.lesion, self.background)


class BalancedCrossEntropy(nn.Module):
    """Binary cross-entropy in which lesion voxels weigh as much as their rarity asks for.

    A lesion voxel weighs the number of background voxels of the batch for each of its lesion
    voxels, at most ``most`` and at least 1; a background voxel weighs 1. See ``CrossEntropy``.

    Args:
        most: largest weight, 1 or more.

    Shapes:
        logits: (B, K, X, Y, Z), before the sigmoid.
        target: (B, K, X, Y, Z), in [0, 1].
        returns: scalar, mean over all voxels (not divided by the weights).
    """

    def __init__(self, most: float = 100.0) -> None:
        super().__init__()
        if most < 1:
            raise ValueError(f"a largest weight of {most} is below that of background")
        self.most = most

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        share = target.float().mean()
        weight = torch.clamp((1 - share) / share.clamp_min(1e-12), 1.0, self.most)
        return weighted_mean(logits, target, weight)


class LesionSizeCrossEntropy(nn.Module):
    """Binary cross-entropy in which the voxels of a lesion weigh the more the smaller it is (S20).

    A voxel of a lesion of V voxels weighs ``1 + kappa / V``, a voxel of no lesion 1. A lesion as a
    whole then weighs ``V + kappa``: small ones are lifted, but none weighs more than a larger one.
    See ``CrossEntropy``.

    Args:
        kappa: in voxels, 0 or more.

    Shapes:
        logits: (B, 1, X, Y, Z), before the sigmoid.
        target: (B, 2, X, Y, Z): the mask, and 1 / V where it is 1 (``preprocess.lesion_size``).
        returns: scalar, mean over all voxels (not divided by the weights).
    """

    def __init__(self, kappa: float = 100.0) -> None:
        super().__init__()
        if kappa < 0:
            raise ValueError(f"kappa {kappa} is below 0")
        self.kappa = kappa

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if target.shape[1] != 2:
            raise ValueError(f"logits {tuple(logits.shape)}, target {tuple(target.shape)}")
        mask, inverse_size = target.float().split(1, dim=1)
        return weighted_mean(logits, mask, 1 + self.kappa * inverse_size)


def weighted_mean(
    logits: Tensor, target: Tensor, lesion: Tensor | float, background: float = 1.0
) -> Tensor:
    """Mean over all voxels of the binary cross-entropy, computed in float32.

    Args:
        logits: before the sigmoid.
        target: of the same shape, in [0, 1].
        lesion: weight of lesion voxels; a number, or one per voxel.
        background: weight of background voxels.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)}, target {tuple(target.shape)}")
    logits, target = logits.float(), target.float()
    found = lesion * target * functional.logsigmoid(logits)
    other = background * (1 - target) * functional.logsigmoid(-logits)
    return -(found + other).mean()
