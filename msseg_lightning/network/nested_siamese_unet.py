"""Nested siamese U-Net with shared weights for both visits and a refinement block (S04)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msseg_lightning.network.blocks import (
    BATCH_NORMS,
    CONVOLUTIONS,
    MAX_POOLS,
    Activation,
    Block,
    Norm,
    Up,
)


class NestedUNet(nn.Module):
    """A U-Net with a decoder from every level, all joined by skips (U-Net++), of one narrow width.

    Node ``(i, j)`` has the resolution of level ``i``. ``j = 0`` is the encoder; a node of decoder
    ``j`` sees all earlier nodes of its level and the node ``(i + 1, j - 1)``, enlarged. Every node
    is two convolutions with batch norm and ReLU, then dropout. Each decoder ends at full size with
    a 1x1x1 convolution and a sigmoid.

    Args:
        in_channels: of the images.
        width: channels of every node.
        levels: resolutions; one less is the number of decoders.
        dropout: share of values set to 0 behind each node.
        dims: 2 or 3.

    Shapes:
        images: (B, in_channels, X, Y[, Z]), every edge divisible by ``2 ** (levels - 1)``.
        returns: (B, levels - 1, X, Y[, Z]) in [0, 1], the shallowest decoder first.

    Reference:
        Zhou et al. 2018, https://arxiv.org/abs/1807.10165
    """

    def __init__(
        self, in_channels: int, width: int, levels: int, dropout: float, dims: int = 3
    ) -> None:
        super().__init__()
        recipe = Block(norm=Norm("batch"), activation=Activation("relu"))

        def node(channels: int) -> nn.Module:
            block = recipe.build(channels, width, (3,) * dims, (1,) * dims)
            return nn.Sequential(block, nn.Dropout(dropout))

        # nodes[j][i]: column j of the triangle, level i of it
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                node((width if level else in_channels) if column == 0 else (column + 1) * width)
                for level in range(levels - column)
            )
            for column in range(levels)
        )
        self.pool = MAX_POOLS[dims](2)
        self.up = Up("nearest").build(width, width, (2,) * dims)
        self.heads = nn.ModuleList(CONVOLUTIONS[dims](width, 1, 1) for _ in range(levels - 1))

    def forward(self, images: Tensor) -> Tensor:
        encoder, *decoders = (list(column.children()) for column in self.nodes)
        features, rows = images, []  # of every level, the nodes so far
        for level, node in enumerate(encoder):
            features = node(self.pool(features) if level else features)
            rows.append([features])
        for decoder in decoders:
            for level, node in enumerate(decoder):
                # the row below has one node too many: its column of this decoder comes later
                below = rows[level + 1][len(rows[level]) - 1]
                rows[level].append(node(torch.cat([*rows[level], self.up(below)], dim=1)))
        maps = [head(end) for head, end in zip(self.heads, rows[0][1:], strict=True)]
        return torch.cat(maps, dim=1).sigmoid()


class NestedSiameseUNet(nn.Module):
    """Siamese ``NestedUNet`` with a refinement block that combines the maps of both visits.

    The block is one dropout and then convolutions, each with a batch norm, between which stands a
    ReLU. There is no label for the maps of a visit: the U-Net learns through the block alone.

    Args:
        in_channels: images, each of one channel for the nested U-Net.
        width, levels, dropout: of the nested U-Net; dropout of the block too.
        refinement: channels of the block's convolutions but the last.
        out_channels: of the last, one logit for each mask that is learned.
        dims: 2 or 3.

    Shapes:
        images: (B, in_channels, X, Y[, Z]), baseline before follow-up; every edge divisible by
            ``divisor``.
        returns: logits (B, out_channels, X, Y[, Z]).
    """

    def __init__(
        self,
        in_channels: int = 2,
        width: int = 8,
        levels: int = 4,
        dropout: float = 0.1,
        refinement: Sequence[int] = (8, 8, 8),
        out_channels: int = 5,
        dims: int = 3,
    ) -> None:
        super().__init__()
        self.divisor = (2 ** (levels - 1),) * dims
        self.segment = NestedUNet(1, width, levels, dropout, dims)
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        channels = in_channels * (levels - 1)
        for number, out in enumerate((*refinement, out_channels)):
            layers += [nn.ReLU()] if number else []
            layers += [CONVOLUTIONS[dims](channels, out, 3, padding=1), BATCH_NORMS[dims](out)]
            channels = out
        self.refine = nn.Sequential(*layers)

    def maps(self, images: Tensor) -> Tensor:
        """(B, in_channels (levels - 1), X, Y[, Z]): of the baseline, then of the follow-up."""
        return torch.cat([self.segment(visit) for visit in images.split(1, dim=1)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.refine(self.maps(images))
