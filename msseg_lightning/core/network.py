"""Output of networks that return more than logits."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DeepLogits(NamedTuple):
    """Output of a network under deep supervision.

    Args:
        logits: (B, C, X, Y, Z), full resolution; what inference uses.
        deeper: logits at coarser resolutions, finest first.
    """

    logits: Tensor
    deeper: tuple[Tensor, ...]
