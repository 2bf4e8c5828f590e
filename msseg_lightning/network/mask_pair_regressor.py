"""Regression network that estimates the agreement of two masks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from msseg_lightning.network.blocks import Block


class MaskPairRegressor(nn.Module):
    """Network of strided convolutions, average pooling and two fully connected layers (S08).

    Args:
        widths: channels of each convolution; every one halves the resolution.
        block: recipe of one level.
        pool: edge of what the features are averaged to, so that patches may have any size.
        hidden: neurons of the first fully connected layer.
        in_channels: masks.

    Shapes:
        images: (B, 2, X, Y, Z), predicted map in [0, 1] and true mask.
        returns: (B, 1), after the sigmoid.
    """

    def __init__(
        self,
        widths: Sequence[int],
        block: Block,
        pool: int = 2,
        hidden: int = 128,
        in_channels: int = 2,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.divisor = (2 ** len(widths),) * 3
        levels, channels = [], in_channels
        for width in widths:
            levels.append(block.build(channels, width, (3, 3, 3), (2, 2, 2)))
            channels = width
        self.levels = nn.Sequential(*levels)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool3d(pool),
            nn.Flatten(),
            nn.Linear(channels * pool**3, hidden),
            block.activation.build(),
            nn.Linear(hidden, 1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        estimate: Tensor = self.head(self.levels(images))
        return estimate
