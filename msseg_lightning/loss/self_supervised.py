"""Self-supervised loss for pairs of visits."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class ReconstructedPair(Protocol):
    """Output of an autoencoder of pairs (``network.correlation_unet.Reconstruction``)."""

    @property
    def logits(self) -> Tensor:
        """(B, 2, X, Y, Z) reconstruction of both visits."""

    @property
    def images(self) -> Tensor:
        """(B, 2, X, Y, Z) images of both visits."""

    @property
    def first(self) -> tuple[Tensor, ...]:
        """Features of the baseline at every level."""

    @property
    def second(self) -> tuple[Tensor, ...]:
        """Features of the follow-up at every level."""


class PairReconstruction(nn.Module):
    """Reconstruction error of both visits plus the distance of their features.

    ``MSE(B, B^) + MSE(F, F^) + sum over levels of MSE(features of B, features of F)``. Most tissue
    does not change between visits, what does change is the scanner's doing; features that agree
    there ignore it. Constant features would agree as well: the reconstruction forbids them.

    Args:
        consistency: weight of the sum over levels.

    Shapes:
        drawn: see ``ReconstructedPair``.
        target: not used.
        returns: scalar, float32.

    Reference:
        Shared-encoder self-supervision of S25, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(self, consistency: float = 1.0) -> None:
        super().__init__()
        self.consistency = consistency

    def forward(self, drawn: ReconstructedPair, target: Tensor | None = None) -> Tensor:
        parts = self.parts(drawn)
        return parts["baseline"] + parts["followup"] + self.consistency * parts["consistency"]

    def parts(self, drawn: ReconstructedPair) -> dict[str, Tensor]:
        """Each term before weighting."""
        again, images = drawn.logits.float(), drawn.images.float()
        apart = [
            functional.mse_loss(one.float(), other.float())
            for one, other in zip(drawn.first, drawn.second, strict=True)
        ]
        return {
            "baseline": functional.mse_loss(again[:, 0], images[:, 0]),
            "followup": functional.mse_loss(again[:, 1], images[:, 1]),
            "consistency": torch.stack(apart).sum(),
        }
