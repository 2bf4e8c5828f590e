"""Adapter of losses over classes to a single lesion logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BothClasses(nn.Module):
    """Loss over background and lesion, e.g. of MONAI, applied to a single lesion logit.

    The sigmoid of ``-z`` is one minus that of ``z``: as two channels ``(-z, z)``, with the targets
    ``(1 - g, g)``, a single logit is what such losses expect with their option ``sigmoid``.

    Args:
        loss: ``(logits, target) -> scalar`` of two channels, background first.

    Shapes:
        logits: (B, 1, ...), before the sigmoid; float32 from here on.
        target: (B, 1, ...), in [0, 1].
        returns: scalar.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, target = logits.float(), target.float()
        both = torch.cat([-logits, logits], dim=1)
        return self.loss(both, torch.cat([1 - target, target], dim=1))
