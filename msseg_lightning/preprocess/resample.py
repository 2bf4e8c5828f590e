"""Resampling to another voxel size or shape."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from msseg_lightning.core.subject import LoadedSubject
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.space import ImageRule, MaskRule, resample_volume


def respaced(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The same field of view and axes with another voxel size.

    Both fields of view share their centre; the number of voxels is rounded, so the edges move by
    less than half a new voxel.
    """
    old = np.array(grid.spacing_mm)
    new = np.array(spacing_mm, float)
    x, y, z = (max(1, int(size)) for size in np.rint(np.array(grid.shape) * old / new))
    scale = new / old
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * scale
    middle = (np.array(grid.shape) - 1) / 2
    shift = middle - scale * (np.array([x, y, z]) - 1) / 2
    affine[:3, 3] = grid.affine[:3, :3] @ shift + grid.affine[:3, 3]
    return Grid((x, y, z), affine)


@dataclasses.dataclass(frozen=True)
class Resample:
    """Resample every volume to a voxel size, along its own axes.

    No low-pass filter is applied, as in the systems we reproduce. Volumes on one grid stay on one
    grid.

    Args:
        spacing_mm: one number for isotropic voxels, or one per array axis (right, anterior,
            superior after ``Reorient``); None keeps that axis.
        mask_rule: nearest (hard labels), linear_threshold (S12) or soft (S17).
        tolerance_mm: axes whose spacing is within this of the target are left alone (S13 keeps
            scans near 1 mm).
        image_rule: linear, or cubic splines (S24).
    """

    spacing_mm: float | tuple[float | None, float | None, float | None]
    mask_rule: MaskRule = "linear_threshold"
    tolerance_mm: float = 1e-3
    image_rule: ImageRule = "linear"

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.spacing_mm, int | float):
            object.__setattr__(self, "spacing_mm", tuple(self.spacing_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return subject.replace(
            volumes={name: self._resample(volume) for name, volume in subject.volumes.items()}
        )

    def _resample(self, volume: Volume) -> Volume:
        spacing_mm = self.spacing_mm
        per_axis = (
            spacing_mm if isinstance(spacing_mm, tuple) else (spacing_mm, spacing_mm, spacing_mm)
        )
        x, y, z = (
            old if new is None or abs(new - old) <= self.tolerance_mm else float(new)
            for new, old in zip(per_axis, volume.spacing_mm, strict=True)
        )
        if (x, y, z) == volume.spacing_mm:
            return volume
        target = respaced(volume.grid, (x, y, z))
        return resample_volume(volume, target, None, self.mask_rule, self.image_rule)


@dataclasses.dataclass(frozen=True)
class Resize:
    """Sample the same field of view with another number of voxels.

    Voxels become larger or smaller, not necessarily by the same factor along each axis.

    Args:
        shape: voxels per array axis; None keeps that axis.
        mask_rule: see ``Resample``.
        image_rule: see ``Resample``.
    """

    shape: tuple[int | None, int | None, int | None]
    mask_rule: MaskRule = "linear_threshold"
    image_rule: ImageRule = "linear"

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or any(edge is not None and edge < 1 for edge in self.shape):
            raise ValueError(f"shape {self.shape} is not three numbers of voxels")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return subject.replace(
            volumes={name: self._resize(volume) for name, volume in subject.volumes.items()}
        )

    def _resize(self, volume: Volume) -> Volume:
        sizes = zip(volume.spacing_mm, volume.grid.shape, self.shape, strict=True)
        x, y, z = (old if new is None else old * count / new for old, count, new in sizes)
        target = respaced(volume.grid, (x, y, z))
        return resample_volume(volume, target, None, self.mask_rule, self.image_rule)


@dataclasses.dataclass(frozen=True)
class FitSlices:
    """Resample slices to square pixels of one size, so that they just fit a shape (S26).

    The pixels become as small as the shape allows: one of the slice's axes fills it, the other is
    shorter, or fills it too. Slices are neither added nor moved. All volumes of a subject are
    resampled alike.

    Args:
        shape: pixels along the two axes of a slice, in the order of the volume's.
        axis: that slices are cut across, 2 for axial ones after ``Reorient``.
        mask_rule: see ``Resample``.
    """

    shape: tuple[int, int]
    axis: int = 2
    mask_rule: MaskRule = "linear_threshold"

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 2 or min(self.shape) < 1 or self.axis not in (0, 1, 2):
            raise ValueError(
                f"shape {self.shape} is not two numbers of pixels, or axis {self.axis}"
            )

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return subject.replace(
            volumes={name: self._fit(volume) for name, volume in subject.volumes.items()}
        )

    def _fit(self, volume: Volume) -> Volume:
        plane = [axis for axis in range(3) if axis != self.axis]
        lengths = [volume.grid.shape[axis] * volume.spacing_mm[axis] for axis in plane]
        pixel = max(length / edge for length, edge in zip(lengths, self.shape, strict=True))
        spacing = [pixel, pixel]
        spacing.insert(self.axis, volume.spacing_mm[self.axis])
        target = respaced(volume.grid, (spacing[0], spacing[1], spacing[2]))
        return resample_volume(volume, target, None, self.mask_rule)


@dataclasses.dataclass(frozen=True)
class SimpleRatioResample:
    """Resample to a voxel size near a target, by the simplest ratio to the volume's own (S13).

    Along each axis the ratios n/1, n/2, n/3, ... (for voxels that are too large: their inverses)
    are tried, n the whole number that comes nearest to the target, until the new voxel is within
    the tolerance. So 0.45 mm becomes 0.9 mm by leaving out every second position, which blurs less
    than 1 mm would, and 1.05 mm is left alone.

    Args:
        spacing_mm: target of every axis.
        tolerance_mm: a voxel size this near is near enough, > 0.
        mask_rule: see ``Resample``.
    """

    spacing_mm: float = 1.0
    tolerance_mm: float = 0.11
    mask_rule: MaskRule = "linear_threshold"

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.tolerance_mm <= 0 or self.spacing_mm <= 0:
            raise ValueError(f"{self}: target and tolerance must be above 0")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return subject.replace(
            volumes={name: self._resample(volume) for name, volume in subject.volumes.items()}
        )

    def _resample(self, volume: Volume) -> Volume:
        x, y, z = (self.near(spacing) for spacing in volume.spacing_mm)
        if (x, y, z) == volume.spacing_mm:
            return volume
        return resample_volume(volume, respaced(volume.grid, (x, y, z)), mask_rule=self.mask_rule)

    def near(self, spacing_mm: float) -> float:
        """The new voxel size of an axis."""
        found, parts = spacing_mm, 0
        # headers hold float32: 0.6000001 mm is 0.6 mm
        while abs(found - self.spacing_mm) > self.tolerance_mm + 1e-6:
            parts += 1
            if spacing_mm < self.spacing_mm:
                found = spacing_mm * round(self.spacing_mm / spacing_mm * parts) / parts
            else:
                found = spacing_mm / (round(spacing_mm / self.spacing_mm * parts) / parts)
        return found
