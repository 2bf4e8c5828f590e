"""The batch that a training step receives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

SPACING = "spacing_mm"
"""Name in ``Batch.extra``: (B, 3) edges of the voxels of each element's case, in mm."""


@dataclasses.dataclass
class Batch:
    """A batch of longitudinal patches.

    Args:
        images: (B, C, X, Y, Z) float32; channels in the order the experiment names them.
        target: (B, 1, X, Y, Z) float32 in [0, 1]; more channels for several targets.
        subjects: id of the pair each patch came from.
        weight: (B,) float32 weight of each element; ones unless a sampler mixes sources.
        extra: further tensors by name, e.g. ``brain`` (B, 1, X, Y, Z).
    """

    images: Tensor
    target: Tensor
    subjects: tuple[str, ...]
    weight: Tensor
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with all tensors on a device."""
        return dataclasses.replace(
            self,
            images=self.images.to(device, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            extra={
                name: tensor.to(device, non_blocking=True) for name, tensor in self.extra.items()
            },
        )
