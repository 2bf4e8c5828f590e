"""Boxes of patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.prepared import PreparedSubject


@dataclasses.dataclass(frozen=True)
class PatchSpec:
    """A box to cut.

    Args:
        subject: index among the subjects of the sampler's call.
        centre: (3,) voxels; halves for even sizes, so that patch voxels are voxels of the volume.
        size: (3,) voxels.
        positive: it was centred on a voxel of the target.
    """

    subject: int
    centre: NDArray[np.float64]
    size: tuple[int, int, int]
    positive: bool


class PatchSampler(Protocol):
    """Protocol of samplers, which draw boxes; ``draw`` is a pure function."""

    @property
    def size(self) -> tuple[int, int, int]:
        """(3,) voxels of every box."""

    def draw(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """Box for one element, from a generator keyed by (seed, step, element)."""


def three(size: int | Sequence[int]) -> tuple[int, int, int]:
    """Sizes of all axes from one number or three.

    Raises:
        ValueError: not 1 or 3 positive numbers.
    """
    x, y, z = (size,) * 3 if isinstance(size, int) else tuple(int(length) for length in size)
    if min(x, y, z) < 1:
        raise ValueError(f"patch size {(x, y, z)}: every length must be at least 1")
    return x, y, z


def lattice_centre(
    voxel: NDArray[np.integer],
    size: tuple[int, int, int],
    shape: tuple[int, int, int],
    inside: bool = True,
) -> NDArray[np.float64]:
    """Centre of the box of whole voxels around a voxel.

    Args:
        voxel: (3,) index at the box's middle; for even sizes the one after the middle.
        size: (3,) of the box.
        shape: (3,) of the volume.
        inside: move the box into the volume; a box longer than the volume has the volume in its
            middle.
    """
    start = np.asarray(voxel) - np.asarray(size) // 2
    if inside:
        room = np.asarray(shape) - np.asarray(size)
        start = np.where(room >= 0, np.clip(start, 0, np.maximum(room, 0)), -((-room) // 2))
    return np.asarray(start + (np.asarray(size) - 1) / 2, np.float64)
