"""Resampling of a pair to a fixed box around the brain of MNI152 (S14)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.atlas import Atlas, affine_of_pair, mni152
from msseg_lightning.preprocess.crop import bounding_box
from msseg_lightning.preprocess.space import MaskRule, resample_volume


@dataclasses.dataclass(frozen=True)
class AffineToAtlasBox:
    """Move a pair to MNI152, cropped to the brain, on a fixed number of voxels, in one step.

    The three steps of S14 follow one another in the paper. Once a pair lies in the template's
    space, its brain fills the template's, so the crop is known beforehand and the scans can be
    sampled on the final grid at once; the resolution of the scan is not lost to a 1 mm grid on the
    way. Voxels are not isotropic: the brain's box is longer from front to back than across.
    Nothing is stripped; what of the head lies in the box stays. ``brain`` becomes the template's.

    Args:
        shape: voxels along right, anterior and superior.
        margin_mm: between the template's brain and the edge of the box.
        mask_rule: how the subject's masks are resampled.
        levels_mm: spacings at which the registration works, coarse to fine.
    """

    shape: tuple[int, int, int] = (256, 256, 256)
    margin_mm: float = 10.0
    mask_rule: MaskRule = "linear_threshold"
    levels_mm: tuple[float, ...] = (6.0, 4.0, 3.0)

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        x, y, z = (int(edge) for edge in self.shape)
        object.__setattr__(self, "shape", (x, y, z))
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        atlas = mni152()
        grid = brain_box(atlas, self.shape, self.margin_mm)
        transform, failed = affine_of_pair(subject, self, self.levels_mm)
        volumes = {
            name: resample_volume(volume, grid, transform, self.mask_rule)
            for name, volume in subject.volumes.items()
            if name != BRAIN
        }
        volumes[BRAIN] = resample_volume(Volume(atlas.brain, atlas.affine, "mask"), grid)
        ratio = abs(np.linalg.det(transform[:3, :3]))
        return subject.replace(
            *failed,
            f"moved to a box around the brain of MNI152 by an affine of volume ratio {ratio:.2f}",
            volumes=volumes,
            to_native=subject.to_native @ transform,
        )


def brain_box(atlas: Atlas, shape: tuple[int, int, int], margin_mm: float) -> Grid:
    """Grid of a given shape that covers the template's brain and a margin."""
    box = bounding_box(atlas.brain)
    assert box is not None  # the template has a brain
    old = np.array(atlas.grid.spacing_mm)
    low = box[0] - 0.5 - margin_mm / old  # edges, not centres, in voxels of the template
    high = box[1] - 0.5 + margin_mm / old
    step = (high - low) / np.array(shape)
    affine = atlas.affine.copy()
    affine[:3, :3] = atlas.affine[:3, :3] * step
    affine[:3, 3] = atlas.affine[:3, :3] @ (low + step / 2) + atlas.affine[:3, 3]
    return Grid(shape, affine)
