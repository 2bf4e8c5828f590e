"""Cropping."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.step import common_grid, image_names, mask_of


def bounding_box(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """First and last-plus-one index of the set voxels per axis; None for an empty mask."""
    low, high = [], []
    for axis in range(3):
        other = tuple(other for other in range(3) if other != axis)
        (hit,) = np.nonzero(mask.any(axis=other))
        if not len(hit):
            return None
        low.append(hit[0])
        high.append(hit[-1] + 1)
    return np.array(low), np.array(high)


def _crop(
    subject: LoadedSubject, grid: Grid, inside: NDArray[np.bool_], margin_mm: float, what: str
) -> LoadedSubject:
    box = bounding_box(inside)
    if box is None:
        return subject.replace(f"not cropped: {what} is empty")
    margin = np.ceil(margin_mm / np.array(grid.spacing_mm) - 1e-6).astype(int)
    low = np.maximum(box[0] - margin, 0)
    high = np.minimum(box[1] + margin, grid.shape)
    return _cut(subject, grid, low, high)


def _cut(
    subject: LoadedSubject, grid: Grid, low: NDArray[np.int64], high: NDArray[np.int64]
) -> LoadedSubject:
    """Crop to the box from one voxel up to another, exclusive."""
    window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = grid.affine[:3, :3] @ low + grid.affine[:3, 3]
    return subject.replace(
        volumes={
            name: Volume(np.ascontiguousarray(volume.data[window]), affine, volume.kind)
            for name, volume in subject.volumes.items()
        }
    )


@dataclasses.dataclass(frozen=True)
class CropToNonzero:
    """Crop to the smallest box outside which every image is 0 (S12, S15).

    Args:
        margin_mm: added on each side where the volume reaches so far.
    """

    margin_mm: float = 0.0

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        used = np.zeros(grid.shape, bool)
        for name in image_names(subject):
            used |= np.asarray(subject.volumes[name].data) != 0
        return _crop(subject, grid, used, self.margin_mm, "every image")


@dataclasses.dataclass(frozen=True)
class CropToMask:
    """Crop to the smallest box around a mask (S02, S13, S14, S17, S25).

    Args:
        margin_mm: added on each side where the volume reaches so far.
        mask: its name.
    """

    margin_mm: float = 0.0
    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        return _crop(subject, grid, mask_of(subject, self.mask, self), self.margin_mm, self.mask)


@dataclasses.dataclass(frozen=True)
class CropToSize:
    """Crop to at most a given number of voxels along each axis, around the centre (S17).

    An axis that is not longer stays whole; nothing is added around it.

    Args:
        shape: voxels along the array axes (right, anterior, superior after ``Reorient``).
    """

    shape: tuple[int, int, int]

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} is not three numbers of voxels")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        low = np.maximum(np.array(grid.shape) - self.shape, 0) // 2
        return _cut(subject, grid, low, low + np.minimum(grid.shape, self.shape))


@dataclasses.dataclass(frozen=True)
class CropOrPad(CropToSize):
    """Give every volume exactly so many voxels around its middle (S06).

    A longer axis is cut, a shorter one continued with 0, as evenly as whole voxels allow.
    """

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        cut = super().__call__(subject)
        missing = np.array(self.shape) - cut.grid.shape
        before = missing // 2
        affine = cut.grid.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ before
        around = list(zip(before, missing - before, strict=True))
        volumes = {
            name: Volume(np.pad(volume.data, around), affine, volume.kind)
            for name, volume in cut.volumes.items()
        }
        return cut.replace(volumes=volumes)
