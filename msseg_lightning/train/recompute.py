"""Activation checkpointing: features inside blocks are computed again instead of kept."""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def recompute_blocks(network: nn.Module) -> int:
    """Have every block of convolutions keep its input only.

    A block is a smallest module with at least two convolutions. One with batch norm is left as it
    is: its running statistics would count every batch twice.

    Returns:
        Number of blocks.
    """
    chosen = 0
    for module in network.modules():
        if (
            _convolutions(module) >= 2
            and all(_convolutions(child) < 2 for child in module.children())
            and not any(isinstance(part, BATCH_NORM) for part in module.modules())
        ):
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)
            chosen += 1
    return chosen


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())
