"""Network without pooling for boxes of any size (S22)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PoolingFreeNet(nn.Module):
    """Seven convolutions at full resolution; three maps of position enter in their middle.

    Blocks are 3x3x3 convolution, batch norm, ReLU. The fourth takes the third's output and the
    positions, the fifth the fourth's and the second's, the seventh the sixth's and the follow-up;
    the seventh is a convolution alone, so that its logits may be negative.

    Args:
        in_channels: of all images: baseline, follow-up and the positions, in this order.
        widths: output channels of the seven convolutions.
        positions: how many of the channels are positions; they come last.
        final_relu: the seventh is a block like the others, as the paper has it: no probability is
            below 0.5 then.

    Shapes:
        images: (B, in_channels, X, Y, Z), any size.
        returns: (B, 1, X, Y, Z) logits.
    """

    divisor = (1, 1, 1)

    def __init__(
        self,
        in_channels: int = 5,
        widths: Sequence[int] = (16, 32, 64, 64, 32, 16, 1),
        positions: int = 3,
        final_relu: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != 7 or in_channels <= positions + 1:
            raise ValueError("seven widths, and two visits beside the positions")
        visits = in_channels - positions
        taken = [visits, *widths[:6]]
        taken[3] += positions
        taken[4] += widths[1]
        taken[6] += 1
        self.visits = visits
        pairs = list(zip(taken, widths, strict=True))
        blocks = [_block(*pair) for pair in pairs[:6]]
        last = _block(*pairs[6]) if final_relu else nn.Conv3d(*pairs[6], 3, padding=1)
        self.blocks = nn.ModuleList([*blocks, last])

    def forward(self, images: Tensor) -> Tensor:
        visits, positions = images[:, : self.visits], images[:, self.visits :]
        first, second, third, fourth, fifth, sixth, seventh = self.blocks
        early = second(first(visits))
        deep = fourth(torch.cat([third(early), positions], 1))
        late = sixth(fifth(torch.cat([deep, early], 1)))
        logits: Tensor = seventh(torch.cat([late, visits[:, 1:2]], 1))
        return logits


def _block(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(taken, given, 3, padding=1), nn.BatchNorm3d(given), nn.ReLU(inplace=True)
    )
