"""Regions of a pair that may be new lesions, and what is said of each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import Connectivity, label_lesions

Box = tuple[slice, slice, slice]

CANDIDATES = "candidates"
"""Name of the mask of candidates that a preprocessing chain may leave on a pair."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The connected components of a mask, with the box of each.

    Args:
        labels: (X, Y, Z), 0 outside; candidate ``i`` of the lists below has the label ``i + 1``.
        boxes: around the voxels of each, inside the volume.
        spacing_mm: edges of a voxel.
    """

    labels: NDArray[np.uint32]
    boxes: tuple[Box, ...]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(
        cls,
        mask: NDArray[np.bool_],
        spacing_mm: tuple[float, float, float],
        connectivity: Connectivity = 26,
        margin: int = 0,
    ) -> Candidates:
        """The components of a mask.

        Args:
            mask: (X, Y, Z).
            spacing_mm: edges of a voxel.
            connectivity: what is one candidate.
            margin: voxels by which each box is widened on every side, where the volume goes on.
        """
        labels, _ = label_lesions(mask, connectivity)
        found = ndimage.find_objects(labels.astype(np.int32))
        boxes = tuple(widened(box, margin, mask.shape) for box in found)
        return cls(labels, boxes, spacing_mm)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) voxels of all candidates."""
        return np.asarray(self.labels > 0)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) voxels of each."""
        return np.bincount(self.labels.ravel(), minlength=len(self) + 1)[1:]

    def count_in(self, region: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(n,) voxels of each that lie in a region (X, Y, Z)."""
        return np.bincount(self.labels[region], minlength=len(self) + 1)[1:]

    def within(self, index: int) -> NDArray[np.bool_]:
        """Voxels of one candidate inside its box."""
        return np.asarray(self.labels[self.boxes[index]] == index + 1)

    def select(self, keep: NDArray[np.bool_]) -> Candidates:
        """Those of ``keep`` (n,), numbered anew in the same order."""
        numbers = np.zeros(len(self) + 1, np.uint32)
        numbers[1:][keep] = np.arange(1, int(keep.sum()) + 1)
        boxes = tuple(box for box, kept in zip(self.boxes, keep, strict=True) if kept)
        return dataclasses.replace(self, labels=numbers[self.labels], boxes=boxes)

    def paint(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """(X, Y, Z) the value (n,) of its candidate at every voxel, 0 outside of all."""
        return np.concatenate([[0], values]).astype(np.float32)[self.labels]


class Proposal(NamedTuple):
    """What a proposing step found in a pair.

    Attributes:
        candidates: the regions.
        inside: (X, Y, Z) where they were allowed to lie.
        maps: name -> (X, Y, Z) on the way to them, in order: float32 images and uint8 masks.
    """

    candidates: Candidates
    inside: NDArray[np.bool_]
    maps: Mapping[str, NDArray[np.generic]] = {}


class Judgement(NamedTuple):
    """What a judge says of the candidates of a pair.

    Attributes:
        scores: (n,) in [0, 1], how likely each is a new lesion; rules say 0 or 1.
        maps: name -> (X, Y, Z) uint8, the candidates that were left after each of its steps.
    """

    scores: NDArray[np.float32]
    maps: Mapping[str, NDArray[np.uint8]] = {}


def middle(box: Box) -> NDArray[np.int64]:
    """(3,) voxel in the middle of a box; of an even edge the one after the middle."""
    return np.array([(part.start + part.stop) // 2 for part in box])


def window_around(
    images: NDArray[np.float32], voxel: NDArray[np.integer], size: Sequence[int]
) -> NDArray[np.float32]:
    """(C, x, y, z) of images (C, X, Y, Z) around a voxel; 0 beyond the volume.

    Args:
        images: on one grid.
        voxel: (3,) in the middle; for even sizes the one after the middle.
        size: (3,) of the window.
    """
    found = np.zeros((len(images), *size), np.float32)
    here, there = [slice(None)], [slice(None)]
    for place, edge, length in zip(voxel, size, images.shape[1:], strict=True):
        start = int(place) - edge // 2
        low, high = max(start, 0), min(start + edge, length)
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    found[tuple(there)] = images[tuple(here)]
    return found


def widened(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """A box with some voxels more on every side, cut where the volume ends."""
    x, y, z = (
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(box, shape, strict=True)
    )
    return x, y, z


def merge_nearest_centre(
    shape: tuple[int, int, int],
    boxes: Sequence[Box],
    values: Sequence[NDArray[np.floating]],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    outside: float = 0.0,
) -> NDArray[np.float32]:
    """One map of the maps of overlapping boxes: a voxel has the value of the nearest centre (S22).

    Args:
        shape: of the volume.
        boxes: any number; of two that are equally near the first one counts.
        values: the map of each, of the shape of its box.
        spacing_mm: distances are taken in mm.
        outside: value of voxels in no box.
    """
    found = np.full(shape, outside, np.float32)
    nearest = np.full(shape, np.inf, np.float32)
    for box, value in zip(boxes, values, strict=True):
        squares = [
            ((np.arange(part.stop - part.start) - (part.stop - part.start - 1) / 2) * edge) ** 2
            for part, edge in zip(box, spacing_mm, strict=True)
        ]
        distance = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        nearer = distance.astype(np.float32) < nearest[box]
        nearest[box][nearer] = distance[nearer]
        found[box][nearer] = value[nearer]
    return found
