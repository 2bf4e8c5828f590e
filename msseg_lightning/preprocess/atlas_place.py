"""Images that tell where in the head a voxel lies, from the MNI152 template."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Affine, Volume
from msseg_lightning.preprocess.atlas import affine_to_brain, mni152
from msseg_lightning.preprocess.space import inverse, resample_array
from msseg_lightning.preprocess.step import common_grid, mask_of

PLACE = (
    "place_white",
    "place_grey",
    "place_ventricles",
    "place_right",
    "place_anterior",
    "place_superior",
)
"""Names of the images, in order."""

THINNING = 2
"""The distance to the ventricles is computed on every second voxel of the template."""


@functools.cache
def _ventricle_distance() -> tuple[NDArray[np.float32], Affine]:
    """(X, Y, Z) distance in mm to the template's ventricles, and voxel -> MNI world."""
    atlas = mni152()
    some = (slice(None, None, THINNING),) * 3
    distance = ndimage.distance_transform_edt(~atlas.ventricles[some]) * THINNING
    return distance.astype(np.float32), atlas.affine @ np.diag([THINNING] * 3 + [1])


@dataclasses.dataclass(frozen=True)
class AtlasPlace:
    """Add what the template says of every voxel; the scans stay where they are.

    The images are the probabilities of white and grey matter, the distance to the ventricles in mm
    (0 inside of them) and the position in MNI space in mm: ``PLACE``. The transform is affine, from
    the mean of the visits in the brain, each less its darkest hundredth, so that scans may be
    z-scores already.

    Args:
        levels_mm: spacings at which the registration works, coarse to fine.
    """

    levels_mm: tuple[float, ...] = (6.0, 4.0)

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        atlas, grid = mni152(), common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        total = np.zeros(grid.shape, np.float32)
        for name in (BASELINE, FOLLOWUP):
            data = np.asarray(subject.volumes[name].data, np.float32)
            if brain.any():
                total += np.where(brain, np.maximum(data - np.percentile(data[brain], 1), 0), 0)
        way, failed = affine_to_brain(Volume(total, grid.affine), brain, self.levels_mm)
        back = inverse(way)
        distance, place = _ventricle_distance()
        maps = [
            resample_array(data, affine, grid, "image", back)
            for data, affine in (
                (atlas.white, atlas.affine),
                (atlas.grey, atlas.affine),
                (distance, place),
            )
        ]
        index = np.meshgrid(*map(np.arange, grid.shape), indexing="ij", sparse=True)
        for row in (back @ grid.affine)[:3]:
            maps.append(row[3] + sum(row[axis] * index[axis] for axis in range(3)))
        volumes = {
            name: Volume(np.asarray(data, np.float32), grid.affine)
            for name, data in zip(PLACE, maps, strict=True)
        }
        notes = (failed,) if failed else ()
        return subject.replace(*notes, volumes={**subject.volumes, **volumes})
