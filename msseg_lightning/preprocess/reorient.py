"""Reorientation to RAS+."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from msseg_lightning.core.subject import LoadedSubject
from msseg_lightning.core.volume import Affine, Grid
from msseg_lightning.preprocess.space import resample_volume


def canonical_grid(grid: Grid) -> Grid:
    """The grid with its axes permuted and flipped to the orientation nearest to RAS+.

    The best of the six permutations by the sum of absolute cosines; for oblique scans around 45
    degrees every axis still gets a direction of its own.
    """
    from scipy.optimize import linear_sum_assignment

    cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    _, axes = linear_sum_assignment(-np.abs(cosines))  # world axis -> array axis
    matrix: Affine = np.zeros((4, 4))
    matrix[3, 3] = 1
    for world, axis in enumerate(axes):
        positive = cosines[world, axis] > 0
        matrix[axis, world] = 1 if positive else -1
        matrix[axis, 3] = 0 if positive else grid.shape[axis] - 1
    x, y, z = (grid.shape[axis] for axis in axes)
    return Grid((x, y, z), grid.affine @ matrix)


@dataclasses.dataclass(frozen=True)
class Reorient:
    """Reorient every volume to RAS+ by permuting and flipping axes; values stay the same.

    The lattice stays where it is, so an oblique scan stays oblique.
    """

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return subject.replace(
            volumes={
                name: resample_volume(volume, canonical_grid(volume.grid))
                for name, volume in subject.volumes.items()
            }
        )
