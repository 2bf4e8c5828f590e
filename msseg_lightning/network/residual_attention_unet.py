"""Residual U-Net whose skips pass attention gates (S07)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msseg_lightning.network.blocks import BATCH_NORMS, CONVOLUTIONS, Weights, initialise

EPSILON = 1e-3
"""Added to the variance by batch norms; Keras' default, as in the authors' network."""


def _before(channels: int, dims: int) -> list[nn.Module]:
    return [BATCH_NORMS[dims](channels, eps=EPSILON), nn.ReLU()]


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions plus a shortcut of a 1x1 convolution and a batch norm.

    Args:
        in_channels: of the input.
        out_channels: of both ways.
        stride: of the first convolution and of the one beside it.
        first: the unit at the images, whose first convolution has no norm and activation before.
        dims: 2 or 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, first: bool, dims: int
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.way = nn.Sequential(
            *([] if first else _before(in_channels, dims)),
            convolution(in_channels, out_channels, 3, stride=stride, padding=1),
            *_before(out_channels, dims),
            convolution(out_channels, out_channels, 3, padding=1),
        )
        self.beside = nn.Sequential(
            convolution(in_channels, out_channels, 1, stride=stride),
            BATCH_NORMS[dims](out_channels, eps=EPSILON),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.way(features) + self.beside(features)


class AttentionGate(nn.Module):
    """Attention gate: weights the positions of a skip by itself and the coarser features.

    Both pass a batch norm, a ReLU and a 1x1 convolution to ``width`` channels; of their sum a ReLU,
    a 1x1 convolution to one channel and a sigmoid make the map that multiplies the skip.

    Args:
        skip: channels of the skip.
        coarse: channels of the coarser features, enlarged to the skip's size.
        width: channels of the sum.
        dims: 2 or 3.

    Reference:
        Oktay et al. 2018, https://arxiv.org/abs/1804.03999
    """

    def __init__(self, skip: int, coarse: int, width: int, dims: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.of_skip = nn.Sequential(*_before(skip, dims), convolution(skip, width, 1))
        self.of_coarse = nn.Sequential(*_before(coarse, dims), convolution(coarse, width, 1))
        self.map = nn.Sequential(nn.ReLU(), convolution(width, 1, 1), nn.Sigmoid())

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return skip * self.map(self.of_skip(skip) + self.of_coarse(coarse))


class ResidualAttentionUNet(nn.Module):
    """U-Net of residual units with an attention gate at every skip.

    Every unit but the first halves the size. On the way up features are enlarged by repeating
    pixels, the gated skip is put behind them and a residual unit follows, with twice the channels
    of its level's encoder.

    Args:
        in_channels: images per patch.
        widths: channels of the units on the way down, finest first.
        weights: how the kernels are drawn, see ``blocks.initialise``.
        dims: 2 or 3.

    Shapes:
        images: (B, in_channels, X, Y[, Z]), every edge divisible by ``divisor``.
        returns: logits (B, 1, X, Y[, Z]).
    """

    def __init__(
        self,
        in_channels: int = 2,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        weights: Weights = "xavier",
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution, bottom = CONVOLUTIONS[dims], widths[-1]
        self.divisor = (2 ** (len(widths) - 1),) * dims
        self.encoder = nn.ModuleList(
            ResidualUnit(before, width, 1 if first else 2, first, dims)
            for first, before, width in zip(
                (True, *(False,) * len(widths)), (in_channels, *widths), widths, strict=False
            )
        )
        self.bridge = nn.Sequential(
            *(
                layer
                for _ in range(2)
                for layer in (*_before(bottom, dims), convolution(bottom, bottom, 3, padding=1))
            )
        )
        self.up = nn.Upsample(scale_factor=2.0)
        self.gates, self.decoder = nn.ModuleList(), nn.ModuleList()
        coarse = bottom
        for skip in reversed(widths[:-1]):
            self.gates.append(AttentionGate(skip, coarse, coarse, dims))
            self.decoder.append(ResidualUnit(coarse + skip, 2 * skip, 1, False, dims))
            coarse = 2 * skip
        self.head = convolution(coarse, 1, 1)
        initialise(self, weights)

    def forward(self, images: Tensor) -> Tensor:
        features, skips = images, []
        for unit in self.encoder:
            features = unit(features)
            skips.append(features)
        skips.pop()
        features = self.bridge(features)
        for gate, unit in zip(self.gates, self.decoder, strict=True):
            features = self.up(features)
            features = unit(torch.cat([features, gate(skips.pop(), features)], dim=1))
        return self.head(features)
