"""Difference of lesion probabilities between two visits (S18)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.method.derived_image import Window, probability


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
        scan = prepared.stack([image])
        return probability(self.infer, network, prepared, scan, prepared.inside([image]))
