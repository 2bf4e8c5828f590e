"""Prepared scans of noise, and the formula that maps of them are compared with."""

from __future__ import annotations

import numpy as np

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject, Native
from msseg_lightning.core.volume import Volume

SHAPE = (12, 10, 9)


def noise(visits):
    """Scans whose first two layers are 0."""
    found = np.random.default_rng(0).normal(0, 1, (visits, *SHAPE)).astype(np.float32)
    found[:, :2] = 0
    return found


def prepared(folder, thick=1.0, **scans):
    """A prepared subject of named scans in voxels of 1 x 1 x ``thick`` mm."""
    affine = np.diag([1.0, 1.0, thick, 1.0])
    volumes = {name: Volume(data, affine) for name, data in scans.items()}
    grid = next(iter(volumes.values())).grid
    loaded = LoadedSubject(LongitudinalSubject("a", "a", {}), volumes, Native(grid, b""))
    return PreparedSubject.write(loaded, folder)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))
