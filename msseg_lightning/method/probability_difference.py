"""Difference of lesion probabilities between two visits (S18)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP

Window = Callable[..., Tensor]
"""``(network, images, inside) -> (1, X, Y, Z)`` with ``level``: e.g. ``SlidingWindow``."""


class ProbabilityDifference:
    """``P(lesion at follow-up) - P(lesion at baseline)`` of a single-visit network.

    Probabilities, not masks: a lesion that grows or brightens moves the difference long before it
    crosses a threshold. Each visit is seen where its image is not 0; where no window looked, its
    probability is 0.

    Args:
        infer: slides the network over one scan.
        baseline: image of the earlier visit.
        followup: image of the later visit.

    Reference:
        S18, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(self, infer: Window, baseline: str = BASELINE, followup: str = FOLLOWUP) -> None:
        self.infer, self.baseline, self.followup = infer, baseline, followup

    def __call__(self, network: nn.Module, prepared: PreparedSubject) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [-1, 1] on the working grid."""
        later = self.probability(network, prepared, self.followup)
        return np.asarray(later - self.probability(network, prepared, self.baseline), np.float32)

    def probability(
        self, network: nn.Module, prepared: PreparedSubject, image: str
    ) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [0, 1] of one visit."""
        device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
        scan = prepared.stack([image])
        inside = prepared.inside([image])
        if not inside.any():
            return np.zeros(prepared.grid.shape, np.float32)
        answer = self.infer(
            network, torch.from_numpy(scan).to(device), torch.from_numpy(inside).to(device)
        )[0].float()
        if getattr(self.infer, "level", "logit") == "logit":
            answer = answer.sigmoid()
        return answer.clamp(0, 1).cpu().numpy()
