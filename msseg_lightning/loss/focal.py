"""Focal loss."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Focal(nn.Module):
    """Binary cross-entropy with less weight on voxels that are already classified well.

    With q the probability given to the right answer, a voxel costs ``-(1 - q)^gamma log q``;
    ``gamma = 0`` is plain cross-entropy. Computed from logits in float32, so that a confident
    network (logits of +-100) neither overflows nor loses its gradient. A patch without lesions is
    nothing special: its background voxels count.

    Args:
        gamma: focusing exponent, >= 0.
        lesion_share: weight of lesion voxels in [0, 1], the others get one minus it (alpha of the
            paper); ``None`` weighs both fully.

    Shapes:
        logits: (B, K, X, Y, Z), before the sigmoid.
        target: (B, K, X, Y, Z), in [0, 1].
        returns: scalar, mean over all voxels.

    Reference:
        Lin et al. 2017, equations 4 and 5, https://arxiv.org/abs/1708.02002
    """

    def __init__(self, gamma: float, lesion_share: float | None = None) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}, below 0")
        self.gamma, self.lesion_share = gamma, lesion_share

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape != target.shape:
            raise ValueError(f"logits {tuple(logits.shape)}, target {tuple(target.shape)}")
        logits, target = logits.float(), target.float()
        # log(1 - q) as log-sigmoids: exact where q rounds to 1; raters' shares mix both answers
        lesion = (self.gamma * functional.logsigmoid(-logits)).exp() * functional.logsigmoid(logits)
        other = (self.gamma * functional.logsigmoid(logits)).exp() * functional.logsigmoid(-logits)
        if self.lesion_share is not None:
            lesion, other = lesion * self.lesion_share, other * (1 - self.lesion_share)
        return -(target * lesion + (1 - target) * other).mean()
