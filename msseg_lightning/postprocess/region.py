"""Rules on the location of lesions."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import Connectivity, label_lesions
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem


def region_of(prediction: Prediction) -> NDArray[np.bool_]:
    """Region in which the system searched for lesions.

    Raises:
        MssegError: exit 2, the system has no such region.
    """
    if prediction.inside is None:
        raise MssegError(
            Problem(
                "postprocess.no_region",
                f"{prediction.subject}: the rule needs a region, and the system has none.",
                field="postprocess",
                remedy="leave the rule out, or use a preprocessing that makes a brain mask",
                exit_code=ExitCode.CONFIG,
            )
        )
    return prediction.inside


class InsideMask:
    """Remove lesion voxels outside the region that was searched (``Prediction.inside``)."""

    def __call__(self, prediction: Prediction) -> Prediction:
        mask = prediction.mask * region_of(prediction).astype(np.uint8)
        return dataclasses.replace(prediction, mask=mask)


class NotOnBoundary:
    """Remove lesions that touch the boundary of the region in which the system searched.

    The rim are the region's voxels within ``voxels`` face-neighbour steps of its outside; the edge
    of the volume counts as outside. A lesion that reaches beyond the region passes its rim, so it
    is removed as well.

    Args:
        voxels: thickness of the rim.
        connectivity: what is one lesion.
    """

    def __init__(self, voxels: int = 1, connectivity: Connectivity = 26) -> None:
        if voxels < 1:
            raise ValueError(f"a rim of {voxels} voxels is none")
        self.voxels, self.connectivity = voxels, connectivity

    def __call__(self, prediction: Prediction) -> Prediction:
        core = ndimage.binary_erosion(region_of(prediction), iterations=self.voxels)
        labels, count = label_lesions(prediction.mask, self.connectivity)
        touching = np.unique(labels[~core])
        keep = np.ones(count + 1, bool)
        keep[touching] = False
        keep[0] = False
        return dataclasses.replace(prediction, mask=keep[labels].astype(np.uint8))


class FillHoles:
    """Fill background that a lesion encloses.

    Args:
        voxels: a larger hole stays.
    """

    def __init__(self, voxels: int) -> None:
        self.voxels = voxels

    def __call__(self, prediction: Prediction) -> Prediction:
        # lesions by faces, edges and corners, holes by faces: a diagonal wall is closed
        enclosed = ndimage.binary_fill_holes(prediction.mask).astype(bool) & (prediction.mask == 0)
        labels, _ = label_lesions(enclosed, 6)
        small = np.bincount(labels.ravel()) <= self.voxels
        small[0] = False
        return dataclasses.replace(
            prediction, mask=((prediction.mask > 0) | small[labels]).astype(np.uint8)
        )
