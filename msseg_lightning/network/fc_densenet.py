"""FC-DenseNet ("Tiramisu"): a U-Net of densely connected blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msseg_lightning.core.problem import ExitCode, MssegError, Problem


class DenseBlock(nn.Module):
    """Densely connected layers: batch norm, ReLU, 3x3 convolution, dropout.

    Args:
        channels: of the input.
        growth: maps that each layer adds.
        layers: how many.
        dropout: share of maps zeroed after each convolution.
        keep_input: return the input with the new maps; False returns the new maps alone.

    Shapes:
        features: (B, channels, H, W).
        returns: (B, layers x growth [+ channels], H, W).
    """

    def __init__(
        self, channels: int, growth: int, layers: int, dropout: float, keep_input: bool
    ) -> None:
        super().__init__()
        self.keep_input = keep_input
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels + index * growth),
                nn.ReLU(),
                nn.Conv2d(channels + index * growth, growth, 3, padding=1),
                nn.Dropout2d(dropout),
            )
            for index in range(layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        known = [features]
        for layer in self.layers:
            known.append(layer(torch.cat(known, 1)))
        return torch.cat(known if self.keep_input else known[1:], 1)


class FCDenseNet(nn.Module):
    """Fully convolutional DenseNet; with the default numbers FC-DenseNet-57.

    Down: dense blocks, whose maps are handed across, each followed by batch norm, ReLU, 1x1
    convolution, dropout and 2x2 max-pooling. Up: the bottleneck's new maps, a transposed 3x3
    convolution of stride 2, the maps of that level, a dense block that passes its new maps on
    alone (the last one everything). A 1x1 convolution gives x, of which S15 takes the tanh.

    The network returns ``2x``: as a logit its probability ``sigmoid(2x)`` is ``(tanh(x) + 1) / 2``,
    the map S15 averages, so tanh networks meet the same windows, levels and rules as all others.
    ``loss.tanh_l2.TanhL2`` undoes the factor.

    Args:
        in_channels: slices per stack times visits.
        first_channels: of the first 3x3 convolution.
        growth: maps that each layer adds.
        down: layers of the dense blocks, finest first; as many blocks lead up again.
        bottleneck: layers of the coarsest block.
        dropout: share of maps zeroed after every 3x3 convolution and transition down.
        input_scale: images are multiplied by this
        input_shift: and moved by this on entering: S15 maps values in units of the main tissue, x,
            to x / 2 - 1. Done here, so that padding with 0 is air wherever it happens.
        out_channels: channels of the logits.
        dims: 2.

    Shapes:
        images: (B, in_channels, H, W), edges divisible by ``divisor``.
        returns: logits (B, out_channels, H, W).

    Reference:
        Jegou et al. 2017, https://arxiv.org/abs/1611.09326
    """

    def __init__(
        self,
        in_channels: int,
        first_channels: int = 48,
        growth: int = 12,
        down: Sequence[int] = (4, 4, 4, 4, 4),
        bottleneck: int = 4,
        dropout: float = 0.2,
        input_scale: float = 1.0,
        input_shift: float = 0.0,
        out_channels: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims != 2:
            raise ValueError(f"FCDenseNet works on slices, not in {dims} dimensions")
        self.in_channels, self.divisor = in_channels, (2 ** len(down),) * 2
        self.input_scale, self.input_shift = input_scale, input_shift
        self.first = nn.Conv2d(in_channels, first_channels, 3, padding=1)
        self.encoder, self.downs = nn.ModuleList(), nn.ModuleList()
        channels, across = first_channels, []
        for layers in down:
            self.encoder.append(DenseBlock(channels, growth, layers, dropout, keep_input=True))
            channels += growth * layers
            across.append(channels)
            self.downs.append(
                nn.Sequential(
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1),
                    nn.Dropout2d(dropout),
                    nn.MaxPool2d(2),
                )
            )
        self.bottleneck = DenseBlock(channels, growth, bottleneck, dropout, keep_input=False)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = growth * bottleneck
        for level, layers in reversed(list(enumerate(down))):
            self.ups.append(
                nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=0, output_padding=0)
            )
            joined, last = channels + across[level], level == 0
            self.decoder.append(DenseBlock(joined, growth, layers, dropout, keep_input=last))
            channels = growth * layers + (joined if last else 0)
        self.head = nn.Conv2d(channels, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        return 2 * self.before_tanh(images)

    def before_tanh(self, images: Tensor) -> Tensor:
        """Output before the tanh, half of the logits."""
        self._check(images)
        features = self.first(images * self.input_scale + self.input_shift)
        across = []
        for block, down in zip(self.encoder, self.downs, strict=True):
            features = block(features)
            across.append(features)
            features = down(features)
        features = self.bottleneck(features)
        for up, block in zip(self.ups, self.decoder, strict=True):
            skip = across.pop()
            # 2 n + 1 pixels; as in S15's code the middle is kept, which leaves out the last ones
            enlarged = up(features)[..., : skip.shape[-2], : skip.shape[-1]]
            features = block(torch.cat([enlarged, skip], 1))
        return self.head(features)

    def _check(self, images: Tensor) -> None:
        edges = tuple(images.shape[2:])
        divides = not any(edge % part for edge, part in zip(edges, self.divisor, strict=True))
        if images.shape[1] != self.in_channels or not divides:
            raise MssegError(
                Problem(
                    "network.patch",
                    "The stack of slices does not fit the network.",
                    field="channels and size",
                    found=f"{images.shape[1]} channels, {'x'.join(map(str, edges))}",
                    expected=f"{self.in_channels} channels, edges divisible by {self.divisor[0]}",
                    remedy="channels are visits x loader.depth; choose a size that divides",
                    exit_code=ExitCode.CONFIG,
                )
            )
