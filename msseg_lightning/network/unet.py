"""A U-Net with configurable blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msseg_lightning.core.network import DeepLogits
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.network.blocks import (
    CONVOLUTIONS,
    Block,
    Down,
    Norm,
    Up,
    Weights,
    begin_at,
    initialise,
    per_axis,
)
from msseg_lightning.network.products import apply_head, upsample


class UNet(nn.Module):
    """U-Net: encoder and decoder with a block per level, joined by concatenated skips.

    Level 0 has the images' resolution. On the way down every level shrinks by its stride and has
    its own width; on the way up features are enlarged, the skip of that level is put in front of
    them and a block follows. Heads (1x1x1) on the finest ``heads`` levels give the logits. In
    training a network with several heads returns ``DeepLogits`` (full, half, quarter resolution,
    ...), in evaluation only the full one.

    Args:
        in_channels: images per patch.
        widths: channels of each level, finest first.
        block: recipe of the block on every level, both ways.
        down: how to shrink.
        up: how to upsample.
        strides: of each level against the one above, an int or one per axis; the first is 1.
            ``None`` halves every axis on every level.
        kernels: edge of the convolutions of each level, an int or one per axis; ``None`` is 3.
        stem: a bias-free 3x3x3 convolution to ``widths[0]`` before the first block.
        heads: resolutions that give logits (deep supervision); 1 is an ordinary U-Net, 0 has none
            and gives the features of the finest level, for networks that go on from there.
        first_norm: norm of the very first unit where that of ``block`` does not fit the images.
        out_channels: channels of the logits.
        dims: 2 or 3.
        head_kernel: edge of the heads' kernels.
        offset: added to the images first. Patches and windows continue a volume with 0, so black
            must be 0 until here; a paper's range of -1 to 1 is prepared as 0 to 2, with -1 here.
        prior: probability of a lesion a new network answers with, by the heads' biases; None draws
            them as torch does, near one half. A short training then need not learn first that
            lesions are rare (Lin et al. 2017, section 4.1).
        skips: levels whose features the decoder is given, 0 the finest; None is all (S24 leaves
            out every second one).
        weights: how the kernels are drawn, see ``blocks.initialise``.

    Shapes:
        images: (B, in_channels, X, Y[, Z]), every edge divisible by ``divisor``.
        returns: logits (B, out_channels, X, Y[, Z]), or ``DeepLogits`` in training; without heads
            (B, widths[0], X, Y[, Z]).

    Reference:
        Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; Cicek et al. 2016 (3D),
        https://arxiv.org/abs/1606.06650
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        block: Block,
        down: Down,
        up: Up,
        strides: Sequence[int | Sequence[int]] | None = None,
        kernels: Sequence[int | Sequence[int]] | None = None,
        stem: bool = False,
        heads: int = 1,
        first_norm: Norm | None = None,
        out_channels: int = 1,
        dims: int = 3,
        head_kernel: int = 1,
        offset: float = 0.0,
        prior: float | None = None,
        skips: Sequence[int] | None = None,
        weights: Weights = "torch",
    ) -> None:
        super().__init__()
        levels = len(widths)
        strides = [1] + [2] * (levels - 1) if strides is None else strides
        kernels = [3] * levels if kernels is None else kernels
        if len(strides) != levels or len(kernels) != levels:
            raise ValueError(f"{levels} widths need as many strides and kernels")
        if not 0 <= heads <= levels:
            raise ValueError(f"{heads} heads do not fit {levels} levels")
        steps = [per_axis(stride, dims) for stride in strides]
        edges = [per_axis(kernel, dims) for kernel in kernels]
        if any(step != 1 for step in steps[0]):
            raise ValueError("the first level keeps the resolution: its stride is 1")
        self.skips = tuple(range(levels - 1)) if skips is None else tuple(skips)
        if not set(self.skips) <= set(range(levels - 1)):
            raise ValueError(f"skips {self.skips} are not levels 0 to {levels - 2}")
        ones = (1,) * dims
        self.in_channels, self.dims, self.heads_count = in_channels, dims, heads
        self.offset = offset
        self.divisor = tuple(math.prod(step[axis] for step in steps) for axis in range(dims))
        self.stem = (
            CONVOLUTIONS[dims](in_channels, widths[0], 3, padding=1, bias=False) if stem else None
        )
        self.downs, self.encoder = nn.ModuleList(), nn.ModuleList()
        channels = widths[0] if stem else in_channels
        for level, width in enumerate(widths):
            self.downs.append(down.build(steps[level], channels) if level else nn.Identity())
            stride = steps[level] if down.kind == "in_block" else ones
            norm = first_norm if level == 0 else None
            self.encoder.append(block.build(channels, width, edges[level], stride, norm))
            channels = width
        self.ups, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(levels - 1)):
            fine = widths[level]
            self.ups.append(up.build(channels, fine, steps[level + 1]))
            joined = up.channels(channels, fine) + (fine if level in self.skips else 0)
            self.decoder.append(block.build(joined, fine, edges[level], ones))
            channels = fine
        for level in range(heads):
            self.heads.append(
                CONVOLUTIONS[dims](
                    widths[level], out_channels, head_kernel, padding=head_kernel // 2
                )
            )
        initialise(self, weights)
        begin_at(prior, *self.heads)

    def forward(self, images: Tensor) -> Tensor | DeepLogits:
        check_images(images, self.in_channels, self.divisor)
        images = images + self.offset if self.offset else images
        features = images if self.stem is None else self.stem(images)
        kept: dict[int, Tensor] = {}
        for level, (down, block) in enumerate(zip(self.downs, self.encoder, strict=True)):
            features = block(down(features))
            if level in self.skips:
                kept[level] = features
        finest = [features]  # of the decoder, coarsest first
        levels = reversed(range(len(self.ups)))
        for level, up, block in zip(levels, self.ups, self.decoder, strict=True):
            features = upsample(up, features)
            if level in kept:
                features = torch.cat([kept.pop(level), features], dim=1)
            features = block(features)
            if self.training:  # otherwise only the last is asked for, and memory is short
                finest.append(features)
        if self.training and self.heads_count > 1:
            logits, *deeper = (
                apply_head(head, level)
                for head, level in zip(self.heads, reversed(finest), strict=False)
            )
            return DeepLogits(logits, tuple(deeper))
        return apply_head(self.heads[0], features) if self.heads_count else features

    @property
    def finest_level(self) -> list[nn.Module]:
        """Modules at full resolution; ``infer.SlidingWindow`` runs them in float32."""
        return [part for part in (self.stem, self.encoder[0]) if part is not None]


def check_images(images: Tensor, channels: int, divisor: Sequence[int]) -> None:
    """Refuse images of a wrong number of channels or size (exit 2)."""
    if images.shape[1] != channels:
        raise MssegError(
            Problem(
                "network.channels",
                "The patch has another number of images than the network was built for.",
                field="channels",
                found=str(images.shape[1]),
                expected=str(channels),
                remedy="name the same images in the data and in network.in_channels",
                exit_code=ExitCode.CONFIG,
            )
        )
    edges = tuple(images.shape[2:])
    if any(edge % part for edge, part in zip(edges, divisor, strict=True)):
        below = [max(edge // part, 1) * part for edge, part in zip(edges, divisor, strict=True)]
        above = [-(-edge // part) * part for edge, part in zip(edges, divisor, strict=True)]
        raise MssegError(
            Problem(
                "network.patch",
                "The patch cannot be halved as often as the network needs.",
                field="sample.size or infer.size",
                found="x".join(map(str, edges)),
                expected=f"edges divisible by {'x'.join(map(str, divisor))}, such as "
                f"{'x'.join(map(str, below))} or {'x'.join(map(str, above))}",
                remedy="choose patch and window sizes that are multiples of these",
                exit_code=ExitCode.CONFIG,
            )
        )
