"""Region of the brain in which a lesion lies.

The box around the patient's brain is laid onto the box around the template's brain, axis by axis.
That takes milliseconds and needs no registration. Of simulated lesions 70 % get the region in which
they were drawn: good for groups of lesions, not for a finding.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.volume import Affine

REGIONS = ("periventricular", "juxtacortical", "infratentorial", "deep")
"""Names of the regions; a voxel of the map holds the index."""


@dataclasses.dataclass(frozen=True)
class RegionMap:
    """Regions of a template's brain.

    Args:
        region: (X, Y, Z) uint8, index in ``REGIONS``; every voxel has one.
        affine: voxel -> world of the template.
        low: (3,) mm, smallest world coordinates of the template's brain.
        high: (3,) mm, largest ones.
    """

    region: NDArray[np.uint8]
    affine: Affine
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def write(self, path: Path) -> None:
        """Write as npz."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def read(cls, path: Path) -> RegionMap:
        """Read what ``write`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in stored.files})

    def regions_of(
        self, points_mm: NDArray[np.float64], brain: NDArray[np.bool_], affine: Affine
    ) -> list[str]:
        """Regions of points of a patient.

        Args:
            points_mm: (points, 3) world coordinates, RAS.
            brain: (X, Y, Z) of the patient, not empty.
            affine: voxel -> world of the brain.
        """
        low, high = brain_box(brain, affine)
        place = self.low + (points_mm - low) / (high - low) * (self.high - self.low)
        inverse = np.linalg.inv(self.affine)
        index = np.rint(place @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        index = np.clip(index, 0, np.array(self.region.shape) - 1)
        return [REGIONS[self.region[tuple(one)]] for one in index]


def brain_box(
    brain: NDArray[np.bool_], affine: Affine
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest world coordinates of a mask, from the corners of its voxels' box."""
    ends = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(brain.any(axis=others))
        ends.append((inside[0] - 0.5, inside[-1] + 0.5))
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    return corners.min(0), corners.max(0)


@functools.cache
def shipped_map() -> RegionMap:
    """The map of MNI152 that comes with the package, see ``run.data.lesion_region_map``."""
    stored = resources.files("msseg_lightning.evaluate") / "lesion_regions.npz"
    with resources.as_file(stored) as path:
        return RegionMap.read(path)
