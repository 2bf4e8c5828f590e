"""Regions of lesions in MNI152: ``python -m msseg_lightning.run.data.lesion_region_map OUT.npz``.

The distances are wider than those by which the simulator names the place of a lesion in the anatomy
of its patient, because a template lies off: of 273 simulated lesions 70 % get the region that was
drawn, most of the others a neighbouring one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from msseg_lightning.evaluate.lesion_regions import REGIONS, RegionMap, brain_box
from msseg_lightning.preprocess.atlas import Atlas, mni152

SPACING = 3
"""Voxels of the template, which has 1 mm, along each axis of a voxel of the map."""
_WALL_MM = 10.0
_SURFACE_MM = 14.0
_GREY = 0.5


def region_map(atlas: Atlas) -> RegionMap:
    """Name the region of every voxel of a template.

    Infratentorial lies below z = -18 mm behind y = -34 mm or within 18 mm of the middle,
    periventricular within 10 mm of a ventricle, juxtacortical within 14 mm of the surface of the
    brain or where more than half is grey matter, deep is the rest. Voxels outside of the brain
    have the region of the nearest one inside.
    """
    wall = ndimage.distance_transform_edt(~atlas.ventricles)
    depth = ndimage.distance_transform_edt(atlas.brain)
    index = np.moveaxis(np.indices(atlas.brain.shape), 0, -1)
    x, y, z = np.moveaxis(index @ atlas.affine[:3, :3].T + atlas.affine[:3, 3], -1, 0)
    below = (z < -18) & ((y < -34) | (np.abs(x) < 18))
    grey = ndimage.gaussian_filter(atlas.grey, 1.0)
    names = np.select(
        [below, wall < _WALL_MM, (depth < _SURFACE_MM) | (grey > _GREY)],
        [REGIONS.index(name) for name in ("infratentorial", "periventricular", "juxtacortical")],
        REGIONS.index("deep"),
    ).astype(np.uint8)
    nearest = ndimage.distance_transform_edt(
        ~atlas.brain, return_distances=False, return_indices=True
    )
    names = names[tuple(nearest)]
    low, high = brain_box(atlas.brain, atlas.affine)
    step = slice(SPACING // 2, None, SPACING)
    affine = atlas.affine @ np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = (atlas.affine @ [*[SPACING // 2] * 3, 1.0])[:3]
    return RegionMap(names[step, step, step], affine, low, high)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    region_map(mni152()).write(Path(sys.argv[1]))
