"""What a score tells of lesions besides their size, from the scan and the probability map."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BRAIN, FOLLOWUP, LongitudinalSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.case_score import CaseScore, Lesion
from msseg_lightning.evaluate.lesion_contrast import lesion_contrasts
from msseg_lightning.evaluate.lesion_regions import shipped_map
from msseg_lightning.read.nifti import GateOptions, read_volume

log = logging.getLogger(__name__)

LARGEST_BRAIN_MM3 = 2.2e6
"""Largest volume of a brain mask; a brain with its fluid rarely exceeds 2 litres, a head has 4."""


def with_traits(
    score: CaseScore,
    subject: LongitudinalSubject,
    prediction: NDArray[np.generic],
    reference: Volume,
    reading: GateOptions,
) -> CaseScore:
    """The score with contrast and region of its lesions, None where they cannot be told.

    The contrast needs a follow-up scan on the grid of the reference; the region also needs a mask
    of the brain, or a scan without a skull.

    Args:
        score: of a pair.
        subject: the pair.
        prediction: (X, Y, Z) mask that was scored.
        reference: that it was scored against.
        reading: options for reading the scan and the mask of the brain.
    """
    if not (score.reference_lesions or score.predicted_lesions):
        return score
    scan = _read(subject, FOLLOWUP, reading)
    if scan is None or not scan.grid.same_as(reference.grid):
        return score
    brain = _brain(subject, scan, reading)

    def described(
        lesions: tuple[Lesion, ...], mask: NDArray[np.generic], other: NDArray[np.generic]
    ) -> tuple[Lesion, ...]:
        contrasts = lesion_contrasts(lesions, mask, other, scan.data, reference.spacing_mm)
        regions = _regions(lesions, brain)
        return tuple(
            dataclasses.replace(lesion, contrast=contrast, region=region)
            for lesion, contrast, region in zip(lesions, contrasts, regions, strict=True)
        )

    return dataclasses.replace(
        score,
        reference_lesions=described(score.reference_lesions, reference.data, prediction),
        predicted_lesions=described(score.predicted_lesions, prediction, reference.data),
    )


def _regions(lesions: tuple[Lesion, ...], brain: Volume | None) -> list[str | None]:
    if brain is None or not lesions:
        return [None] * len(lesions)
    centres = np.array([lesion.centre_voxel for lesion in lesions])
    points = centres @ brain.affine[:3, :3].T + brain.affine[:3, 3]
    return list(shipped_map().regions_of(points, np.asarray(brain.data) != 0, brain.affine))


def _brain(subject: LongitudinalSubject, scan: Volume, reading: GateOptions) -> Volume | None:
    """The brain's mask, or where a scan without a skull is not zero; None if there is neither."""
    if BRAIN in subject.masks:
        brain = _read(subject, BRAIN, reading)
        whole = brain is not None and brain.grid.same_as(scan.grid) and np.any(brain.data)
        return brain if whole else None
    inside = (np.asarray(scan.data) > 0).astype(np.uint8)
    volume_mm3 = np.count_nonzero(inside) * scan.grid.voxel_volume_mm3
    return Volume(inside, scan.affine, "mask") if 0 < volume_mm3 <= LARGEST_BRAIN_MM3 else None


def _read(subject: LongitudinalSubject, name: str, reading: GateOptions) -> Volume | None:
    """A volume of the pair; None, with a message, where it is refused: it decides no score."""
    file = subject.files().get(name)
    if file is None:
        return None
    if name == BRAIN:
        reading = dataclasses.replace(reading, largest_mask_fraction=1.0, label_values={})
    try:
        return read_volume(file, "mask" if name == BRAIN else "image", reading, subject.root)
    except MssegError as error:
        log.warning("%s: no contrast or region of its lesions: %s", subject.id, error)
        return None


def activity(probability: NDArray[np.generic] | None, voxel_mm3: float) -> dict[str, float | None]:
    """How active a pair looks: the sum of the probabilities as a volume."""
    if probability is None:
        return {"probability_volume_mm3": None}
    total = float(np.asarray(probability).sum(dtype=np.float64)) * voxel_mm3
    return {"probability_volume_mm3": total}
