"""Output of networks that return more than logits; networks that are told the size of voxels."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from torch import Tensor

Part = TypeVar("Part")


class DeepLogits(NamedTuple):
    """Output of a network under deep supervision.

    Args:
        logits: (B, C, X, Y, Z), full resolution; what inference uses.
        deeper: logits at coarser resolutions, finest first.
    """

    logits: Tensor
    deeper: tuple[Tensor, ...]


def on_grid(part: Part, spacing_mm: tuple[float, float, float]) -> Part:
    """A network or an inference rule for voxels of this size; one that does not ask for it stays.

    Args:
        part: asks for it by a method ``on_grid``, which returns what is called instead.
        spacing_mm: edges of a voxel.
    """
    told = getattr(part, "on_grid", None)
    return part if told is None else told(spacing_mm)
