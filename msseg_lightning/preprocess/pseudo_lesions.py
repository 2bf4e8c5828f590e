"""Masks of all lesions by a rule, for visits without a manual mask."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    LoadedSubject,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, mask_of
from msseg_lightning.preprocess.white_matter import WHITE_MATTER

OF_VISIT = {BASELINE: BASELINE_LESIONS, FOLLOWUP: FOLLOWUP_LESIONS}


@dataclasses.dataclass(frozen=True)
class PseudoLesions:
    """Mark hyperintense voxels as lesions of each visit that has no mask of its own.

    A voxel is marked when it lies deeper than ``rim_mm`` inside the brain (the cortex and what a
    loose mask leaves of the skull are bright too), inside ``white_matter`` where a step before
    made that mask, and is brighter than median + ``deviations`` robust standard deviations
    (1.4826 median absolute deviations) of the brain, or than mean + ``deviations`` standard
    deviations of another ``tissue``; components (through faces) smaller than
    ``smallest_mm3`` are dropped. Such masks miss faint lesions and take flow artefacts for lesions;
    the note that is left says that they are pseudo-labels and how many.

    Args:
        deviations: above the median, or the mean.
        smallest_mm3: volume of the smallest component kept.
        rim_mm: depth inside the brain at which marking begins.
        tissue: mask whose mean and standard deviation count, such as ``grey_matter``; None takes
            median and robust deviation of the brain.
    """

    deviations: float = 2.0
    smallest_mm3: float = 10.0
    rim_mm: float = 4.0
    tissue: str | None = None

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        missing = {
            image: mask
            for image, mask in OF_VISIT.items()
            if image in subject.volumes and mask not in subject.volumes
        }
        if not missing:
            return subject
        grid = common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        depth = ndimage.distance_transform_edt(brain, grid.spacing_mm)
        inside = np.asarray(depth) > self.rim_mm
        if WHITE_MATTER in subject.volumes:
            inside &= mask_of(subject, WHITE_MATTER, self)
        volumes, notes = dict(subject.volumes), []
        for image, name in missing.items():
            data = np.asarray(subject.volumes[image].data, np.float32)
            level = self._level(data, brain, subject)
            mask, count = self._mark(data > level, inside, grid.voxel_volume_mm3)
            volumes[name] = Volume(mask, grid.affine, "mask")
            notes.append(f"{name}: pseudo-labels, {count} hyperintense places marked by a rule")
        return subject.replace(*notes, volumes=volumes)

    def _level(
        self, data: NDArray[np.float32], brain: NDArray[np.bool_], subject: LoadedSubject
    ) -> float:
        """What a lesion is brighter than; infinity where there is no tissue to compare with."""
        values = data[brain if self.tissue is None else mask_of(subject, self.tissue, self)]
        if not values.size:
            return float("inf")
        if self.tissue is not None:
            return float(values.mean() + self.deviations * values.std())
        middle = float(np.median(values))
        return middle + self.deviations * 1.4826 * float(np.median(np.abs(values - middle)))

    def _mark(
        self, bright: NDArray[np.bool_], inside: NDArray[np.bool_], voxel_mm3: float
    ) -> tuple[NDArray[np.bool_], int]:
        labels, _ = label_lesions(inside & bright)
        keep = np.bincount(labels.ravel()) * voxel_mm3 >= self.smallest_mm3
        keep[0] = False
        return np.asarray(keep[labels]), int(keep.sum())
