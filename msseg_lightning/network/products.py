"""Pointwise convolutions as matrix products that ``torch.compile`` can fuse.

A transposed convolution whose kernel is its stride, and a 1x1x1 convolution to a channel or two,
are matrix products of the channels of a voxel. oneDNN runs both at a tenth of the speed of such
a product and has their input and output copied. The layers stay torch's own, with their parameters
and checkpoints; only compiled for a CPU with channels last, where it is faster, are they run here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FEWEST_CHANNELS = 4
"""Largest number of output channels for which a head is computed as a sum of channels."""


class Product(torch.autograd.Function):
    """Matrix product of voxels and channels, arranged as blocks of voxels, channels last.

    Shapes:
        features: (B, C, X, Y[, Z]), channels last.
        weight: (C, F, *kernel); the kernel is the stride.
        returns: (B, F, X * kernel, ...), channels last, in the features' type.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        matrix = _matrix(weight).to(features.dtype)
        ctx.save_for_backward(features, weight)
        kernel, sizes = weight.shape[2:], features.shape[2:]
        product = _rows(features) @ matrix
        # (B, X, Y, Z, 2, 2, 2, F) -> (B, X, 2, Y, 2, Z, 2, F)
        blocks = product.view(features.shape[0], *sizes, *kernel, weight.shape[1])
        dims = len(kernel)
        between = [axis for pair in range(1, dims + 1) for axis in (pair, pair + dims)]
        enlarged = [size * step for size, step in zip(sizes, kernel, strict=True)]
        voxels = blocks.permute(0, *between, 2 * dims + 1)
        return voxels.reshape(features.shape[0], *enlarged, weight.shape[1]).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        features, weight = ctx.saved_tensors
        kernel, sizes = weight.shape[2:], features.shape[2:]
        dims, voxels = len(kernel), features.numel() // features.shape[1]
        pairs = [edge for pair in zip(sizes, kernel, strict=True) for edge in pair]
        blocks = gradient.movedim(1, -1).reshape(gradient.shape[0], *pairs, weight.shape[1])
        apart = [*range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2)]
        copied = blocks.permute(0, *apart, 2 * dims + 1).contiguous()
        # as_strided has the copy made as it stands here, axis by axis; a view would be worked into
        # its index, which then takes divisions for every value
        width = weight[0].numel()
        rows = copied.as_strided((voxels, width), (width, 1))
        back = rows @ _matrix(weight).to(rows.dtype).t()
        slope = _rows(features).t() @ rows  # (C, kernel x F)
        return (
            back.view(features.shape[0], *sizes, weight.shape[0]).movedim(-1, 1),
            slope.view(weight.shape[0], *kernel, weight.shape[1]).movedim(-1, 1).to(weight.dtype),
        )


def _rows(features: Tensor) -> Tensor:
    """(voxels, C)."""
    return features.movedim(1, -1).reshape(-1, features.shape[1])


def _matrix(weight: Tensor) -> Tensor:
    """(C, kernel x F), channels innermost."""
    return weight.movedim(1, -1).reshape(weight.shape[0], -1)


def fusable(features: Tensor) -> bool:
    """Whether features are channels-last on a CPU under ``torch.compile``."""
    if not torch.compiler.is_compiling() or features.device.type != "cpu":
        return False
    layout = torch.channels_last if features.ndim == 4 else torch.channels_last_3d
    return features.is_contiguous(memory_format=layout)


def upsample(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply an upsampling layer, as a matrix product where its blocks do not overlap.

    Args:
        layer: a transposed convolution; any other module runs as it stands.
        features: (B, C, X, Y[, Z]).
    """
    if not isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d) or not fusable(features):
        return layer(features)
    apart = tuple(layer.kernel_size) == tuple(layer.stride) and not any(layer.padding)
    if not apart or layer.groups > 1 or any(layer.output_padding) or set(layer.dilation) != {1}:
        return layer(features)
    answer: Tensor = Product.apply(features, layer.weight)
    if layer.bias is None:
        return answer
    bias = layer.bias.view(1, -1, *(1,) * (features.ndim - 2))
    return answer + bias.to(answer.dtype)


def apply_head(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply a head; a 1x1x1 convolution to few channels is computed as a float32 sum.

    Args:
        layer: a convolution; any other module runs as it stands.
        features: (B, C, X, Y[, Z]).
    """
    if not isinstance(layer, nn.Conv2d | nn.Conv3d) or not fusable(features):
        return layer(features)
    alone = set(layer.kernel_size) == {1} and set(layer.stride) == {1} and not any(layer.padding)
    if not alone or layer.groups > 1 or layer.out_channels > FEWEST_CHANNELS:
        return layer(features)
    shape = (1, -1, *(1,) * (features.ndim - 2))
    planes = [
        (features * row.view(shape)).sum(1, keepdim=True, dtype=torch.float32)
        for row in layer.weight
    ]
    logits = torch.cat(planes, 1)
    return logits if layer.bias is None else logits + layer.bias.view(shape)
