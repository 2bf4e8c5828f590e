"""Cross-entropy of the hardest voxels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class TopKCrossEntropy(nn.Module):
    """Mean binary cross-entropy of the voxels of a batch with the largest loss.

    Of N voxels in the batch the ``ceil(share * N)`` of largest cross-entropy count, all others have
    no gradient. New lesions are rare: a mean over all voxels is decided by background that has long
    been learned. From logits in float32.

    Args:
        share: of the voxels, in (0, 1]; 1 is plain cross-entropy.

    Shapes:
        logits: (B, K, X, Y[, Z]), before the sigmoid.
        target: (B, K, X, Y[, Z]), in [0, 1].
        returns: scalar.

    Reference:
        Wu et al. 2016, https://arxiv.org/abs/1605.06885
    """

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, not in (0, 1]")
        self.share = share

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        costs = functional.binary_cross_entropy_with_logits(
            logits.float(), target.float(), reduction="none"
        )
        # the count is rounded first: 0.1 * 30 is 3.0000000000000004
        count = math.ceil(round(self.share * costs.numel(), 6))
        return torch.topk(costs.flatten(), count, sorted=False).values.mean()
