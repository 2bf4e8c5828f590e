"""Predictions made of a few voxels."""

import numpy as np

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import Native
from msseg_lightning.core.volume import Grid


def predicted(mask, spacing=(1.0, 1.0, 1.0), **fields):
    mask = np.asarray(mask, np.uint8)
    x, y, z = mask.shape
    native = Native(Grid((x, y, z), np.diag([*spacing, 1.0])), b"")
    return Prediction("p", mask, native, **fields)


def blocks(shape, *boxes):
    """A mask of boxes given as ((x0, x1), (y0, y1), (z0, z1))."""
    mask = np.zeros(shape, np.uint8)
    for box in boxes:
        mask[tuple(slice(*edge) for edge in box)] = 1
    return mask
