"""Lesion probability of a pair, by a network of an earlier stage (S03, S20)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.method.derived_image import Window, probability


class PairProbability:
    """Probability of the target of an earlier stage, by a network that sees both visits.

    Args:
        infer: slides the network over the pair.
        images: channels of the network.
        region: image of the pair, made by a stage before, outside of which nothing is asked and
            the probability is 0; None asks wherever an image is not 0.
        region_threshold: what ``region`` must exceed.

    Reference:
        S03 and S20, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(
        self,
        infer: Window,
        images: Sequence[str] = (BASELINE, FOLLOWUP),
        region: str | None = None,
        region_threshold: float = 0.5,
    ) -> None:
        self.infer, self.images = infer, tuple(images)
        self.region, self.region_threshold = region, region_threshold

    def __call__(self, network: nn.Module, prepared: PreparedSubject) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [0, 1] on the working grid."""
        images, inside = prepared.stack(self.images), prepared.inside(self.images)
        if self.region is not None:
            inside &= prepared.image(self.region) > self.region_threshold
        found = probability(self.infer, network, prepared, images, inside)
        return found if self.region is None else np.where(inside, found, np.float32(0))
