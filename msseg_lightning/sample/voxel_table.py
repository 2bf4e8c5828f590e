"""Tables of voxels and their neighbours, for classifiers (S01)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator

PLACES = (
    ("here", (0, 0, 0)),
    ("left", (-1, 0, 0)),
    ("right", (1, 0, 0)),
    ("posterior", (0, -1, 0)),
    ("anterior", (0, 1, 0)),
    ("inferior", (0, 0, -1)),
    ("superior", (0, 0, 1)),
)
"""A voxel and its face neighbours, by name and offset on a RAS+ grid."""


def feature_names(images: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns: all places of the first image, then of the second, and so on."""
    return tuple(f"{image}_{place}" for image in images for place, _ in PLACES)


def neighbour_features(
    images: Sequence[NDArray[np.generic]], voxels: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Values of a few voxels and their six face neighbours in every image.

    Args:
        images: C arrays of one shape (X, Y, Z).
        voxels: (n, 3) indices.

    Returns:
        (n, 7 C) float32, columns as in ``feature_names``. At the border of the volume a missing
        neighbour has the value of the voxel itself (edge padding).
    """
    last = np.array(images[0].shape) - 1
    columns = [
        np.ravel_multi_index(tuple(np.clip(voxels + offset, 0, last).T), images[0].shape)
        for _, offset in PLACES
    ]
    table = np.empty((len(voxels), len(images) * len(PLACES)), np.float32)
    for place, image in enumerate(images):
        values = np.ravel(image)
        for number, column in enumerate(columns):
            table[:, place * len(PLACES) + number] = values[column]
    return table


class Rows(NamedTuple):
    """Positions and targets of voxels for fitting.

    Attributes:
        voxels: (n, 3) indices, in array order.
        weight: (n,) float32, how many voxels of the brain each row stands for.
    """

    voxels: NDArray[np.int64]
    weight: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class VoxelRows:
    """Selection of voxels of the brain as rows.

    Args:
        negative_ratio: share of the voxels that are neither lesion nor candidate to fit on; every
            lesion and candidate voxel is a row. 1 makes a row of every voxel.
        candidates_only: fit and predict on candidate voxels alone; no other can become lesion.
        stand_in: a drawn voxel weighs as much as all those it was drawn from, so that the
            objective is that of the whole brain; otherwise every row weighs 1.
    """

    negative_ratio: float = 0.05
    candidates_only: bool = False
    stand_in: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.negative_ratio <= 1:
            raise ValueError(f"negative_ratio is a share, 0 to 1, not {self.negative_ratio}")

    def fitting(
        self,
        brain: NDArray[np.bool_],
        candidates: NDArray[np.bool_],
        target: NDArray[np.bool_],
        *key: int | str,
    ) -> Rows:
        """Rows of a training pair.

        Args:
            brain: (X, Y, Z).
            candidates: of the first stage.
            target: new lesions.
            key: of the draw, e.g. seed and pair.
        """
        sure = brain & candidates if self.candidates_only else brain & (candidates | target)
        weight = sure.ravel().astype(np.float32)
        others = np.flatnonzero(brain & ~sure)
        count = 0 if self.candidates_only else round(self.negative_ratio * len(others))
        if count:
            drawn = keyed_generator("voxel rows", *key).choice(len(others), count, replace=False)
            weight[others[drawn]] = len(others) / count if self.stand_in else 1.0
        rows = np.flatnonzero(weight)
        return Rows(np.stack(np.unravel_index(rows, brain.shape), axis=1), weight[rows])

    def predicting(
        self, brain: NDArray[np.bool_], candidates: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """(n, 3) voxels of a pair that are classified."""
        return np.argwhere(brain & candidates if self.candidates_only else brain)
