"""Lesion probability of a pair, by a network of an earlier stage (S20)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.method.derived_image import Window, probability


class PairProbability:
    """Probability of a new lesion by a network that sees both visits.

    Args:
        infer: slides the network over the pair.
        images: channels of the network.

    Reference:
        S20, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(self, infer: Window, images: Sequence[str] = (BASELINE, FOLLOWUP)) -> None:
        self.infer, self.images = infer, tuple(images)

    def __call__(self, network: nn.Module, prepared: PreparedSubject) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [0, 1] on the working grid."""
        images = prepared.stack(self.images)
        return probability(self.infer, network, prepared, images, prepared.inside(self.images))
