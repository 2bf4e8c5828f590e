"""Maps of the position in the brain (S22)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import ndimage

from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, mask_of

DEPTH, NECK, NOSE = POSITIONS = ("depth_map", "neck_map", "nose_map")
"""From the surface of the brain inwards, from the vertex down, from the occiput forwards."""


@dataclasses.dataclass(frozen=True)
class BrainPosition:
    """Add three distance maps from 0 to 1 inside the brain, 0 outside.

    ``depth_map`` is the distance from the surface, 1 where the brain is deepest; ``neck_map`` is 0
    in the highest slice of the brain and 1 in the lowest, ``nose_map`` 0 in the rearmost and 1 in
    the foremost. The axes must run right, anterior and superior (``Reorient``). All are 0 for an
    empty brain.
    """

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        maps = np.zeros((3, *grid.shape), np.float32)
        if brain.any():
            depth = ndimage.distance_transform_edt(brain, sampling=grid.spacing_mm)
            # the first voxel from outside is the surface
            maps[0] = depth / depth.max()
            _, front, up = ndimage.find_objects(brain.astype(np.uint8))[0]
            down = 1 - (np.arange(grid.shape[2]) - up.start) / max(up.stop - 1 - up.start, 1)
            forwards = (np.arange(grid.shape[1]) - front.start) / max(
                front.stop - 1 - front.start, 1
            )
            maps[1] = down * brain
            maps[2] = forwards[:, None] * brain
        added = {
            name: Volume(data, grid.affine) for name, data in zip(POSITIONS, maps, strict=True)
        }
        return subject.replace(volumes={**subject.volumes, **added})
