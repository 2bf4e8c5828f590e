"""Activation checkpointing of blocks."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint

BATCH_NORM = nn.modules.batchnorm._BatchNorm
LISTS = (nn.ModuleList, nn.ModuleDict)
"""Container modules, which are never called themselves."""


def recompute_blocks(network: nn.Module) -> int:
    """Wrap every block of convolutions in activation checkpointing.

    A block is a smallest module with at least two convolutions. One with batch norm is left as it
    is: its running statistics would count every batch twice.

    Returns:
        Number of blocks.
    """
    chosen = 0
    for module in network.modules():
        if (
            not isinstance(module, LISTS)
            and _convolutions(module) >= 2
            and all(_convolutions(part) < 2 for part in _parts(module))
            and not any(isinstance(part, BATCH_NORM) for part in module.modules())
        ):
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)
            chosen += 1
    return chosen


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, LISTS):
            yield from _parts(child)
        else:
            yield child


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())
