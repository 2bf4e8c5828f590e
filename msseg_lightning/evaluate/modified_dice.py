"""Smoothed Dice for masks and probabilities, defined for every case (S01)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMOOTH = 1e-6


def modified_dice(
    probability: NDArray[np.generic],
    target: NDArray[np.generic],
    weight: NDArray[np.generic] | None = None,
    smooth: float = SMOOTH,
) -> float:
    """``(2 sum(y p) + s) / (sum(y) + sum(p) + s)``: 1 for two empty masks, 0 beside an empty one.

    Args:
        probability: any shape, in [0, 1]; masks give the ``modified`` Dice of ``score_case``.
        target: the same shape, 0 or 1.
        weight: the same shape, how many voxels an element stands for.
        smooth: in voxels.

    Reference:
        MSSEG-2 proceedings 2021, S01: the measure that decides when boosting stops.
    """
    p = np.asarray(probability, np.float64).ravel()
    y = np.asarray(target, np.float64).ravel()
    w = np.ones_like(p) if weight is None else np.asarray(weight, np.float64).ravel()
    return float((2 * (w * y) @ p + smooth) / (w @ y + w @ p + smooth))
