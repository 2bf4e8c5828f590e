"""Lesion probability of one visit, by a network of single visits (S23)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.method.derived_image import Window, probability


class VisitProbability:
    """Probability of a lesion at the visit that the image is named after.

    The image ``baseline_probability`` is made of the baseline's scans, ``followup_probability`` of
    the follow-up's. The network is given one channel per contrast; those that the visit does not
    have are 0. Only where the visit has a scan it is asked, elsewhere the probability is 0.

    Args:
        infer: slides the network over one visit.
        contrasts: channels of the network, as the scans' names end: ``[t1, t2, flair]``.
        visit: of which the image is made; set by ``for_image``.

    Reference:
        S23, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(
        self, infer: Window, contrasts: Sequence[str] = ("flair",), visit: str = "followup"
    ) -> None:
        self.infer, self.contrasts, self.visit = infer, tuple(contrasts), visit

    def for_image(self, name: str) -> VisitProbability:
        """The maps of the visit that stands before the first underscore of an image's name."""
        return VisitProbability(self.infer, self.contrasts, name.partition("_")[0])

    def __call__(self, network: nn.Module, prepared: PreparedSubject) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [0, 1] on the working grid."""
        names = [f"{self.visit}_{contrast}" for contrast in self.contrasts]
        known = [name for name in names if name in prepared.image_names]
        images = np.zeros((len(names), *prepared.grid.shape), np.float32)
        for channel, name in enumerate(names):
            if name in known:
                images[channel] = prepared.image(name)
        inside = prepared.inside(known) if known else np.zeros(prepared.grid.shape, bool)
        return probability(self.infer, network, prepared, images, inside)
