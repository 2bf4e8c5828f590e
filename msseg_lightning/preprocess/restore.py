"""Resampling of maps from the working grid to the grid of the original scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.subject import Native
from msseg_lightning.core.volume import Affine, Grid, Kind
from msseg_lightning.preprocess.space import MaskRule, inverse, resample_array


def restore(
    data: NDArray[np.generic],
    grid: Grid,
    native: Native,
    to_native: Affine,
    kind: Kind,
    mask_rule: MaskRule = "linear_threshold",
) -> NDArray[np.generic]:
    """Undo a whole preprocessing chain with at most one interpolation.

    No operator needs an inverse of its own: volumes carry their affine through every permutation,
    crop and resampling, and the subject carries the transform of a registration, so the chain is
    one map between worlds. Axis order, flips and crops are undone bit for bit.

    Args:
        data: (X, Y, Z) on the working grid.
        grid: the working grid.
        native: where the result belongs.
        to_native: (4, 4), working world -> native world.
        kind: images and probabilities are linear; masks follow ``mask_rule``.
        mask_rule: linear then >= 0.5, or nearest; ``soft`` keeps the fraction.

    Returns:
        (X, Y, Z) of the native grid; 0 where the working grid does not reach. uint8 for masks
        (float32 for soft ones), otherwise the type of ``data`` where copied and float32 where
        interpolated.
    """
    if data.shape != grid.shape:
        raise ValueError(f"data of shape {data.shape} do not lie on a grid of shape {grid.shape}")
    values = resample_array(data, grid.affine, native.grid, kind, inverse(to_native), mask_rule)
    if kind == "mask" and mask_rule != "soft":
        return (values != 0).astype(np.uint8)
    return values
