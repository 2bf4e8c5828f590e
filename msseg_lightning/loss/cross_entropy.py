"""Voxelwise cross-entropy."""

from __future__ import annotations

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
        if logits.shape != target.shape:
            raise ValueError(f"logits {tuple(logits.shape)}, target {tuple(target.shape)}")
        logits, target = logits.float(), target.float()
        lesion = self.lesion * target * functional.logsigmoid(logits)
        other = self.background * (1 - target) * functional.logsigmoid(-logits)
        return -(lesion + other).mean()
