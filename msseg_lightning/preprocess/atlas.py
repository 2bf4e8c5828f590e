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
from msseg_lightning.preprocess.space import (
    MaskRule,
    covering_grid,
    inverse,
    resample_array,
    resample_volume,
)
from msseg_lightning.preprocess.step import common_grid

VENTRICLES = "ventricles"

LEAST_OVERLAP = 0.8
"""Dice of the brain and the template's below which a registration has failed."""


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


def affine_to_brain(
    scan: Volume,
    brain: NDArray[np.bool_] | None,
    levels_mm: tuple[float, ...] = (6.0, 4.0, 3.0),
) -> tuple[Affine, str]:
    """``affine_from_atlas`` compared with a known brain; where it failed, the brains' boxes decide.

    Args:
        scan: see ``affine_from_atlas``.
        brain: (X, Y, Z) of the scan; without one, or if it is empty, the registration is trusted.
        levels_mm: spacings at which the registration works, coarse to fine.

    Returns:
        (4, 4), MNI world -> world of the scan, and a note if the registration failed.
    """
    way = affine_from_atlas(scan, levels_mm)
    if brain is None or not brain.any():
        return way, ""
    overlap = atlas_overlap(way, scan.grid, brain)
    if overlap >= LEAST_OVERLAP:
        return way, ""
    box = box_from_atlas(scan.grid, brain)
    better = atlas_overlap(box, scan.grid, brain)
    note = f"the template's registration failed (Dice of the brains {overlap:.2f})"
    if better <= overlap:
        return way, f"{note}: what comes from the atlas is unsure"
    return box, f"{note}: its box was laid onto that of the brain ({better:.2f})"


def atlas_overlap(way: Affine, grid: Grid, brain: NDArray[np.bool_]) -> float:
    """Dice of a brain and the template's, on voxels of 4 mm.

    Args:
        way: world of the template -> world of the scan.
        grid: of the brain.
        brain: (X, Y, Z).
    """
    coarse, atlas = covering_grid(grid, (4.0, 4.0, 4.0)), mni152()
    own = resample_array(brain, grid.affine, coarse, "mask", mask_rule="nearest") != 0
    there = resample_array(atlas.brain, atlas.affine, coarse, "mask", inverse(way), "nearest") != 0
    return float(2 * (own & there).sum() / max(own.sum() + there.sum(), 1))


def box_from_atlas(grid: Grid, brain: NDArray[np.bool_]) -> Affine:
    """World of the template -> world of the scan, by the boxes of both brains along the axes."""
    atlas = mni152()
    ends = []
    for mask, affine in ((atlas.brain, atlas.affine), (brain, grid.affine)):
        places = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
        ends.append((places.min(0), places.max(0)))
    (low, high), (own_low, own_high) = ends
    scale = (own_high - own_low) / (high - low)
    way = np.diag([*scale, 1.0])
    way[:3, 3] = own_low - scale * low
    return way


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


def affine_of_pair(
    subject: LoadedSubject, step: object, levels_mm: tuple[float, ...]
) -> tuple[Affine, tuple[str, ...]]:
    """``affine_to_brain`` of the mean of the visits and the pair's brain mask, if it has one.

    Returns:
        (4, 4), MNI world -> world of the pair, and notes.
    """
    brain = subject.volumes.get(BRAIN)
    mask = None if brain is None else np.asarray(brain.data) != 0
    way, failed = affine_to_brain(mean_of_visits(subject, step), mask, levels_mm)
    return way, (failed,) if failed else ()


@dataclasses.dataclass(frozen=True)
class AffineToAtlas:
    """Move a pair to the grid of MNI152 by one affine transform for both visits (S01).

    The transform comes from the mean of the visits, so that it favours neither; where it failed
    by the brain mask that came with the data, the boxes of the brains decide. Adds the masks
    ``brain`` and ``ventricles`` of the template; a ``brain`` that came with the data is replaced.

    Args:
        mask_rule: how the subject's masks are resampled.
        spacing_mm: of the grid; the template's own 1 mm, or coarser where time matters.
        levels_mm: spacings at which the registration works, coarse to fine.
    """

    mask_rule: MaskRule = "linear_threshold"
    spacing_mm: float = 1.0
    levels_mm: tuple[float, ...] = (6.0, 4.0, 3.0)

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        atlas = mni152()
        grid = covering_grid(atlas.grid, (self.spacing_mm,) * 3)
        transform, failed = affine_of_pair(subject, self, self.levels_mm)
        volumes = {
            name: resample_volume(volume, grid, transform, self.mask_rule)
            for name, volume in subject.volumes.items()
            if name != BRAIN
        }
        for name, mask in ((BRAIN, atlas.brain), (VENTRICLES, atlas.ventricles)):
            volumes[name] = resample_volume(Volume(mask, atlas.affine, "mask"), grid)
        ratio = abs(np.linalg.det(transform[:3, :3]))
        return subject.replace(
            *failed,
            f"moved to MNI152 by an affine of volume ratio {ratio:.2f}",
            volumes=volumes,
            to_native=subject.to_native @ transform,
        )
