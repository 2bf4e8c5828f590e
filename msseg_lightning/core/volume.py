"""A 3D array with its affine."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
"""(4, 4), voxel index -> RAS+ world in mm."""

Kind = Literal["image", "mask", "probability"]
"""How values may be mixed: images and probabilities linearly, masks by linear + 0.5 or nearest."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Shape and affine of a volume.

    Args:
        shape: (X, Y, Z) in voxels, in file order.
        affine: (4, 4), voxel index -> RAS+ world in mm.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm, in array order."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def corners_mm(self) -> NDArray[np.float64]:
        """(8, 3) world positions of the corner voxels' centres."""
        index = np.array(list(itertools.product(*((0, size - 1) for size in self.shape))))
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3])

    def displacement_mm(self, other: Grid) -> float:
        """Largest distance between corresponding corners in mm; infinite if shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def same_as(self, other: Grid, tolerance_voxels: float = 0.1) -> bool:
        """Whether every voxel has the same position in both grids.

        Compared by the displacement of corners rather than by matrix elements: header fields are
        rounded, and a rotation of 1e-4 matters more in a large grid than in a small one.
        """
        return self.displacement_mm(other) <= tolerance_voxels * min(self.spacing_mm)


@dataclasses.dataclass(frozen=True)
class Volume:
    """A scan, mask or probability map.

    Args:
        data: (X, Y, Z).
        affine: (4, 4), voxel index -> RAS+ world in mm.
        kind: how it may be interpolated.
    """

    data: NDArray[np.generic]
    affine: Affine
    kind: Kind = "image"

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        x, y, z = self.data.shape
        return Grid((x, y, z), self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm."""
        return self.grid.spacing_mm
