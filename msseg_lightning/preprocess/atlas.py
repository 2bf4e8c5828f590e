"""The MNI152 template of nilearn, and affine registration to it."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Affine, Grid, Volume
from msseg_lightning.preprocess.register import (
    Fixed,
    centre_of_mass_mm,
    linear_registration,
    pitched,
    shifted,
)
from msseg_lightning.preprocess.space import MaskRule, covering_grid, resample_volume
from msseg_lightning.preprocess.step import common_grid

VENTRICLES = "ventricles"


@dataclasses.dataclass(frozen=True)
class Atlas:
    """Template maps on one 1 mm grid of 197 x 233 x 189 voxels, RAS+.

    Args:
        grey: probability of grey matter.
        white: probability of white matter.
        brain: mask with ventricles and the fluid between the folds.
        ventricles: mask of the lateral and third ventricles.
        affine: voxel -> MNI world.
    """

    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    brain: NDArray[np.bool_]
    ventricles: NDArray[np.bool_]
    affine: Affine

    @property
    def grid(self) -> Grid:
        """Grid of the template."""
        x, y, z = self.brain.shape
        return Grid((x, y, z), self.affine)

    def flair(self, grey: float = 1.0, white: float = 0.75, fluid: float = 0.15) -> Volume:
        """A FLAIR-like template without a head, from tissue maps weighted as FLAIR shows them.

        nilearn has a T1 without skull only. Grey matter is a little brighter than white matter in
        FLAIR and fluid is dark, as are the skull and the air around the brain.
        """
        rest = np.clip(1 - self.grey - self.white, 0, 1) * self.brain
        data = grey * self.grey + white * self.white + fluid * rest
        return Volume(data.astype(np.float32), self.affine)


@functools.cache
def mni152() -> Atlas:
    """Load the template from nilearn's package, once per process.

    The ventricles are the largest component of fluid (brain, grey + white below one half) that
    keeps 5 mm away from the surface of the brain.
    """
    from nilearn import datasets

    brain_image = datasets.load_mni152_brain_mask(resolution=1)
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    brain = ndimage.binary_fill_holes(np.asarray(brain_image.dataobj) > 0)
    fluid = brain & (grey + white < 0.5)
    deep = ndimage.binary_erosion(brain, iterations=5)
    labels, _ = label_lesions(fluid, 6)
    sizes = np.bincount(labels.ravel())
    sizes[np.unique(labels[~deep])] = 0
    sizes[0] = 0
    return Atlas(grey, white, brain, labels == sizes.argmax(), np.asarray(brain_image.affine))


@functools.cache
def _fixed() -> Fixed:
    """The FLAIR-like template, with its brain and 8 mm around it as the place of the metric."""
    atlas = mni152()
    rim = ndimage.binary_dilation(atlas.brain, iterations=8)
    return Fixed(atlas.flair(), Volume(rim, atlas.affine))


def affine_from_atlas(scan: Volume, levels_mm: tuple[float, ...] = (6.0, 4.0, 3.0)) -> Affine:
    """Affine registration of the template to a FLAIR scan with or without its head.

    Rigid from several nods and heights (necks and fields of view differ), then affine. The metric
    is mutual information within the template's brain and 8 mm around it: the dark rim of fluid and
    skull is what tells the brain from the scalp.

    Returns:
        (4, 4), MNI world -> world of the scan.
    """
    template = _fixed()
    centre = template.centre
    middle = np.eye(4)
    middle[:3, 3] = np.mean(scan.grid.corners_mm(), axis=0) - centre
    weight = np.eye(4)
    weight[:3, 3] = centre_of_mass_mm(scan) - centre
    guesses = pitched(weight, centre, (-20.0, 0.0, 20.0))
    guesses += [*shifted([weight], (25.0,)), middle]
    fit = functools.partial(
        linear_registration, template, scan, iterations=60, gradient_tolerance=1e-4
    )
    rigid = fit("rigid", guesses, levels_mm[:1])
    rigid = fit("rigid", [rigid], levels_mm[1:2])
    return fit("affine", [rigid], levels_mm, sampling=1.0)


def mean_of_visits(subject: LoadedSubject, step: object) -> Volume:
    """The mean of the visits on one grid, each divided by its 95th percentile."""
    grid = common_grid(subject, step)
    total = np.zeros(grid.shape, np.float32)
    visits = [name for name in (BASELINE, FOLLOWUP) if name in subject.volumes]
    for name in visits:
        data = np.asarray(subject.volumes[name].data, np.float32)
        bright = data[data > 0]
        total += data / (np.percentile(bright, 95) if bright.size else 1.0)
    return Volume(total / len(visits), grid.affine)


@dataclasses.dataclass(frozen=True)
class AffineToAtlas:
    """Move a pair to the grid of MNI152 by one affine transform for both visits (S01).

    The transform comes from the mean of the visits, so that it favours neither. Adds the masks
    ``brain`` and ``ventricles`` of the template; a ``brain`` that came with the data is replaced.

    Args:
        mask_rule: how the subject's masks are resampled.
        spacing_mm: of the grid; the template's own 1 mm, or coarser where time matters.
        levels_mm: spacings at which the registration works, coarse to fine.
    """

    mask_rule: MaskRule = "linear_threshold"
    spacing_mm: float = 1.0
    levels_mm: tuple[float, ...] = (6.0, 4.0, 3.0)

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        atlas = mni152()
        grid = covering_grid(atlas.grid, (self.spacing_mm,) * 3)
        transform = affine_from_atlas(mean_of_visits(subject, self), self.levels_mm)
        volumes = {
            name: resample_volume(volume, grid, transform, self.mask_rule)
            for name, volume in subject.volumes.items()
            if name != BRAIN
        }
        for name, mask in ((BRAIN, atlas.brain), (VENTRICLES, atlas.ventricles)):
            volumes[name] = resample_volume(Volume(mask, atlas.affine, "mask"), grid)
        ratio = abs(np.linalg.det(transform[:3, :3]))
        return subject.replace(
            f"moved to MNI152 by an affine of volume ratio {ratio:.2f}",
            volumes=volumes,
            to_native=subject.to_native @ transform,
        )
