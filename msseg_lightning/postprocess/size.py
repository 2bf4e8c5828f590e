"""Rules on the size of lesions."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from msseg_lightning.core.lesion import Connectivity, label_lesions
from msseg_lightning.core.prediction import Prediction

ROUNDING = 1e-6
"""Relative tolerance of volumes, for rounding in headers."""


class MinSize:
    """Remove lesions below a minimum volume.

    A limit in voxels stays the same on every grid; a limit in mm3 uses the voxel volume of the
    pair's own grid.

    Args:
        voxels: least number of voxels. Give this or ``mm3``.
        mm3: least volume.
        connectivity: what is one lesion: neighbours by 6 faces, 18 edges or 26 corners.
        strict: a lesion of exactly the limit is removed too ("larger than" instead of "at least").
    """

    def __init__(
        self,
        voxels: float | None = None,
        mm3: float | None = None,
        connectivity: Connectivity = 26,
        strict: bool = False,
    ) -> None:
        if (voxels is None) == (mm3 is None):
            raise ValueError("give the limit in voxels or in mm3, not both")
        self.voxels, self.mm3 = voxels, mm3
        self.connectivity, self.strict = connectivity, strict

    def least_voxels(self, voxel_volume_mm3: float) -> int:
        """Smallest number of voxels of a lesion that is kept."""
        if self.voxels is not None:
            limit = float(self.voxels)
        else:
            assert self.mm3 is not None
            limit = self.mm3 / voxel_volume_mm3
        if self.strict:
            return math.floor(limit * (1 + ROUNDING)) + 1
        return math.ceil(limit * (1 - ROUNDING))

    def __call__(self, prediction: Prediction) -> Prediction:
        labels, _ = label_lesions(prediction.mask, self.connectivity)
        sizes = np.bincount(labels.ravel())
        keep = sizes >= self.least_voxels(prediction.native.grid.voxel_volume_mm3)
        keep[0] = False
        return dataclasses.replace(prediction, mask=keep[labels].astype(np.uint8))


class MinAxis:
    """Remove lesions below a minimum axis length.

    The lesion is read as an ellipsoid: an axis has the length ``4 * sqrt(v)``, v an eigenvalue of
    the covariance of its voxel centres (as radiomics defines axis lengths). A sheet one voxel
    thick has length 0, two voxels 2, three voxels 3.27.

    Args:
        length: least length of the axis, in ``unit``; an axis of exactly this length stays.
        axis: ``least`` is the shortest of the three, ``minor`` the middle one (radiomics' names).
        unit: ``voxels`` or ``mm``.
        connectivity: what is one lesion.
    """

    def __init__(
        self,
        length: float,
        axis: Literal["least", "minor"] = "least",
        unit: Literal["voxels", "mm"] = "voxels",
        connectivity: Connectivity = 26,
    ) -> None:
        if axis not in ("least", "minor") or unit not in ("voxels", "mm"):
            raise ValueError(f"unknown axis {axis!r} or unit {unit!r}")
        self.length, self.axis, self.unit = length, axis, unit
        self.connectivity = connectivity

    def __call__(self, prediction: Prediction) -> Prediction:
        labels, count = label_lesions(prediction.mask, self.connectivity)
        spacing = prediction.native.grid.spacing_mm if self.unit == "mm" else (1.0, 1.0, 1.0)
        positions = np.argwhere(labels)
        order = labels[labels > 0]
        keep = np.zeros(count + 1, bool)
        for label in range(1, count + 1):
            points = positions[order == label] * np.asarray(spacing)
            covariance = np.cov(points, rowvar=False, bias=True) if len(points) > 1 else 0
            variances = np.linalg.eigvalsh(np.zeros((3, 3)) + covariance)  # ascending
            variance = max(0.0, float(variances[0 if self.axis == "least" else 1]))
            keep[label] = 4 * math.sqrt(variance) >= self.length * (1 - ROUNDING)
        return dataclasses.replace(prediction, mask=keep[labels].astype(np.uint8))
