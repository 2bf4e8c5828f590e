"""U-Net whose pooled features are added to the decoder as well (SC U-Net, S05)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msseg_lightning.network.blocks import (
    BATCH_NORMS,
    CONVOLUTIONS,
    MAX_POOLS,
    TRANSPOSED,
    initialise,
)

EPSILON = 1e-3
"""Added to the variance by batch norms; Keras' default, as in the authors' network."""


def _block(in_channels: int, out_channels: int, dims: int) -> nn.Sequential:
    """Two convolutions with ReLU; the first is followed by a batch norm, behind its ReLU."""
    convolution = CONVOLUTIONS[dims]
    return nn.Sequential(
        convolution(in_channels, out_channels, 3, padding=1),
        nn.ReLU(),
        BATCH_NORMS[dims](out_channels, eps=EPSILON),
        convolution(out_channels, out_channels, 3, padding=1),
        nn.ReLU(),
    )


class PooledSkipUNet(nn.Module):
    """A U-Net with a second kind of skip: pooled features, widened by a 1x1 convolution, are added.

    The pooled features of a level have the size of the next coarser one. Widened to twice the
    channels they have its width too, and are added to what leaves the bottom (those of the coarsest
    level) or the decoder there. The finest level has none.

    Args:
        in_channels: images per patch.
        widths: channels of the levels, finest first; each twice the one before.
        dims: 2 or 3.

    Shapes:
        images: (B, in_channels, X, Y[, Z]), every edge divisible by ``divisor``.
        returns: logits (B, 1, X, Y[, Z]).
    """

    def __init__(
        self,
        in_channels: int = 4,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        dims: int = 2,
    ) -> None:
        super().__init__()
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(widths)):
            raise ValueError(f"widths {list(widths)}: each level has twice the channels before it")
        *levels, bottom = widths
        convolution = CONVOLUTIONS[dims]
        self.divisor = (2 ** len(levels),) * dims
        self.encoder = nn.ModuleList(
            _block(before, width, dims)
            for before, width in zip((in_channels, *levels), levels, strict=False)
        )
        self.pool = MAX_POOLS[dims](2)
        self.pooled_skips = nn.ModuleList(convolution(width, 2 * width, 1) for width in levels)
        self.bottom = _block(levels[-1], bottom, dims)
        self.ups = nn.ModuleList(
            TRANSPOSED[dims](2 * width, width, 2, stride=2) for width in reversed(levels)
        )
        self.decoder = nn.ModuleList(_block(2 * width, width, dims) for width in reversed(levels))
        self.head = convolution(widths[0], 1, 1)
        initialise(self, "xavier")  # Keras' default, of the head and on the way up
        for part in (self.encoder, self.bottom, self.decoder, self.pooled_skips):
            initialise(part, "he")

    def forward(self, images: Tensor) -> Tensor:
        features, skips, pooled_skips = images, [], []
        for block, widen in zip(self.encoder, self.pooled_skips, strict=True):
            skips.append(block(features))
            features = self.pool(skips[-1])
            pooled_skips.append(widen(features))
        features = self.bottom(features) + pooled_skips.pop()
        for up, block in zip(self.ups, self.decoder, strict=True):
            features = block(torch.cat([skips.pop(), up(features)], dim=1))
            if pooled_skips:
                features = features + pooled_skips.pop()
        return self.head(features)
