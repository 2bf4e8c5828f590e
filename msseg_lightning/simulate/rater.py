"""Simulated raters, and the challenge's consensus of their masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.lesion import label_lesions

Mask = NDArray[np.uint8]


def chance_of_marking(sensitivity: float, volume_mm3: float, contrast: float) -> float:
    """Chance that a rater marks a lesion.

    ``sensitivity`` holds for 100 mm3 at a contrast of 1.35; the log odds fall with the logarithm of
    the volume and with contrast. The slopes are ours, chosen so that half of the lesions of 10 mm3
    with a contrast of 1.15 are missed by a rater of sensitivity 0.85.
    """
    odds = math.log(sensitivity / (1 - sensitivity))
    odds += 0.45 * float(np.clip(math.log(volume_mm3 / 100), -4, 1.5))
    odds += 3.5 * float(np.clip(contrast - 1.35, -0.4, 0.3))
    return 1 / (1 + math.exp(-odds))


def consensus(
    marks: Sequence[Mask], accept: Callable[[NDArray[np.bool_]], bool], majority: int = 3
) -> Mask:
    """Consensus of the masks of several raters by the challenge's rule.

    A lesion is a component (faces) of the union of all marks. One that at least ``majority`` raters
    marked is accepted; of the others a further expert decides. Inside an accepted lesion a voxel is
    kept if half or more of the raters *who marked that lesion* marked it.

    Args:
        marks: one (X, Y, Z) mask per rater.
        accept: the further expert's decision on a lesion, given as (X, Y, Z) mask.
        majority: raters who need no further expert.
    """
    votes = np.asarray(np.sum([mark != 0 for mark in marks], axis=0), np.uint8)
    labels, number = label_lesions(votes)
    kept = np.zeros(votes.shape, np.uint8)
    if number == 0:
        return kept
    place = np.flatnonzero(labels.ravel())
    owner = labels.ravel()[place]
    marked = np.stack(
        [
            np.bincount(owner, weights=mark.ravel()[place] != 0, minlength=number + 1) > 0
            for mark in marks
        ]
    ).sum(0)  # raters who marked each lesion
    for lesion in range(1, number + 1):
        voxels = place[owner == lesion]
        if marked[lesion] < majority:
            region = np.zeros(votes.size, bool)
            region[voxels] = True
            if not accept(region.reshape(votes.shape)):
                continue
        kept.ravel()[voxels[2 * votes.ravel()[voxels] >= marked[lesion]]] = 1
    return kept
