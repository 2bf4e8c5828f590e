"""Linear intensity matching of the follow-up to the baseline scan."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, mask_of


@dataclasses.dataclass(frozen=True)
class JointLinearFit:
    """Replace the follow-up scan by ``a F + b``, its least squares fit to the baseline (S02).

    After it, the regression of the baseline on the follow-up scan over the same voxels is the line
    ``y = x``. Zeros of the follow-up scan outside the mask stay 0.

    Args:
        trim: share of the voxels, those with the largest residuals of a first fit, that the second
            fit leaves out, so that new lesions do not decide; 0 fits once.
        mask: voxels that are compared.

    A pair with fewer than two different values in the mask stays as it is, with a note.
    """

    trim: float = 0.0
    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 1:
            raise ValueError(f"trim {self.trim} is not 0 or more and below 1")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        inside = mask_of(subject, self.mask, self)
        scan = np.asarray(subject.volumes[FOLLOWUP].data, np.float32)
        x = scan[inside].astype(np.float64)
        y = np.asarray(subject.volumes[BASELINE].data)[inside].astype(np.float64)
        if not x.size or x.min() == x.max():
            return subject.replace("the visits were not fitted: one value in the mask")
        slope, shift = _line(x, y)
        if self.trim:
            away = np.abs(y - slope * x - shift)
            kept = away <= np.quantile(away, 1 - self.trim)
            if x[kept].min() < x[kept].max():
                slope, shift = _line(x[kept], y[kept])
        fitted = np.where(inside | (scan != 0), slope * scan + shift, 0).astype(np.float32)
        return subject.replace(
            f"follow-up scan times {slope:.4g} plus {shift:.4g}",
            volumes={**subject.volumes, FOLLOWUP: Volume(fitted, grid.affine)},
        )


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and shift of the least squares line of y over x."""
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())
