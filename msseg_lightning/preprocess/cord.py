"""Segmentation of the spinal cord by region growing, and its alignment slice by slice (S17)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.mask import BASELINE_BRAIN, FOLLOWUP_BRAIN
from msseg_lightning.preprocess.register import OF_BASELINE
from msseg_lightning.preprocess.step import common_grid, mask_of

BASELINE_CORD = "baseline_cord"
FOLLOWUP_CORD = "followup_cord"
Mask = NDArray[np.bool_]


def upward(grid: Grid) -> tuple[int, int]:
    """Array axis that runs along the body, and 1 where it runs upward, else -1."""
    direction = grid.affine[2, :3] / np.array(grid.spacing_mm)
    axis = int(np.abs(direction).argmax())
    return axis, 1 if direction[axis] > 0 else -1


def grown_cord(
    scan: Volume,
    brain: Mask,
    seed_mm: float = 6.0,
    deviations: float = 2.5,
    radius_mm: float = 10.0,
    step_mm: float = 2.0,
) -> Mask:
    """(X, Y, Z) mask of the cord from the lower end of the brain mask downward.

    Seeds are the voxels of the lowest ``seed_mm`` of the brain mask. A slice further down belongs
    to the cord where its brightness is within ``deviations`` standard deviations of the seeds',
    where it is connected to the slice above, and where it is near the middle of that one. Growing
    ends with the field of view, or where nothing is left.

    Args:
        scan: FLAIR on the grid of the mask.
        brain: mask of the brain; empty gives no cord.
        seed_mm: height of the piece of brain the growing starts from.
        deviations: width of the brightness window on either side of the seeds' mean.
        radius_mm: how far from the middle of the slice above.
        step_mm: how far the outline may move from slice to slice.
    """
    axis, sign = upward(scan.grid)
    data = np.moveaxis(np.asarray(scan.data, np.float32), axis, 0)[::sign]
    inside = np.moveaxis(brain, axis, 0)[::sign]
    cord = np.zeros(inside.shape, bool)
    filled = np.flatnonzero(inside.any((1, 2)))
    if not len(filled):
        return brain & False
    height = scan.spacing_mm[axis]
    plane = [scan.spacing_mm[other] for other in range(3) if other != axis]
    bottom = int(filled[0])
    seeds = slice(bottom, bottom + max(1, round(seed_mm / height)))
    values = data[seeds][inside[seeds]].astype(np.float64)
    low, high = values.mean() + np.array([-1, 1]) * deviations * max(values.std(), 1e-6)
    above = inside[bottom]
    for number in range(bottom - 1, -1, -1):
        middle = [spacing * place for spacing, place in zip(plane, _middle(above), strict=True)]
        away = [
            spacing * np.arange(size) - place
            for spacing, size, place in zip(plane, above.shape, middle, strict=True)
        ]
        near = np.hypot(away[0][:, None], away[1][None, :]) <= radius_mm
        reach = ndimage.distance_transform_edt(~above, sampling=plane) <= step_mm
        allowed = (data[number] >= low) & (data[number] <= high) & near
        parts, _ = ndimage.label(allowed)
        found = np.isin(parts, np.setdiff1d(parts[allowed & reach], 0)) & reach
        if not found.any():
            break
        cord[number] = above = found
    return np.moveaxis(cord[::sign], 0, axis)


def _middle(mask: Mask) -> tuple[float, float]:
    first, second = ndimage.center_of_mass(mask)
    return float(first), float(second)


@dataclasses.dataclass(frozen=True)
class GrowCord:
    """Masks ``baseline_cord`` and ``followup_cord`` by ``grown_cord``.

    Each visit grows from its own brain mask, or from the ``brain`` that came with the data. A scan
    that ends with the brain has an empty cord. A visit alone has one cord.

    Args:
        seed_mm: see ``grown_cord``; the others likewise.
    """

    seed_mm: float = 6.0
    deviations: float = 2.5
    radius_mm: float = 10.0
    step_mm: float = 2.0

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        volumes = dict(subject.volumes)
        settings = dataclasses.asdict(self)
        for image, brain, cord in (
            (BASELINE, BASELINE_BRAIN, BASELINE_CORD),
            (FOLLOWUP, FOLLOWUP_BRAIN, FOLLOWUP_CORD),
        ):
            if image not in volumes:  # a visit alone
                continue
            own = brain if brain in subject.volumes else BRAIN
            mask = grown_cord(subject.volumes[image], mask_of(subject, own, self), **settings)
            volumes[cord] = Volume(mask, grid.affine, "mask")
        return subject.replace(volumes=volumes)


@dataclasses.dataclass(frozen=True)
class AlignCord:
    """Shift slices of the baseline to align its spinal cord with that of the follow-up.

    The shift of a slice within its plane is the distance of the two cords' middles, 0 where either
    visit has no cord; it is smoothed along the cord, so that it fades out towards the brain, which
    stays where it is. Lesion and brain masks of the baseline move with it.

    Args:
        smoothing: standard deviation in slices.
    """

    smoothing: float = 3.0

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        axis, _ = upward(grid)
        first, second = (
            np.moveaxis(mask_of(subject, name, self), axis, 0)
            for name in (BASELINE_CORD, FOLLOWUP_CORD)
        )
        both = np.flatnonzero(first.any((1, 2)) & second.any((1, 2)))
        if not len(both):
            return subject.replace("no cord in both visits: not aligned")
        shifts = np.zeros((len(first), 2))
        for number in both:
            shifts[number] = np.subtract(_middle(second[number]), _middle(first[number]))
        shifts = ndimage.gaussian_filter1d(shifts, self.smoothing, axis=0, mode="nearest")
        moved = {
            name: self._moved(volume, shifts, axis)
            if name in (*OF_BASELINE, BASELINE_CORD)
            else volume
            for name, volume in subject.volumes.items()
        }
        largest = float(np.abs(shifts).max())
        return subject.replace(f"cord aligned by up to {largest:.1f} voxels", volumes=moved)

    @staticmethod
    def _moved(volume: Volume, shifts: NDArray[np.float64], axis: int) -> Volume:
        data = np.array(volume.data, np.float32)
        slices = np.moveaxis(data, axis, 0)
        for number in np.flatnonzero(np.abs(shifts).max(1) > 1e-3):
            slices[number] = ndimage.shift(slices[number], shifts[number], order=1)
        return dataclasses.replace(volume, data=data >= 0.5 if volume.kind == "mask" else data)


@dataclasses.dataclass(frozen=True)
class JointMask:
    """Add the mask ``brain``: union of the follow-up's brain and both cords, each dilated.

    Without cords it is the enlarged brain alone.

    Args:
        brain_mm: what is added around the brain.
        cord_mm: what is added around the cords.
    """

    brain_mm: float = 2.5
    cord_mm: float = 2.5

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        own = FOLLOWUP_BRAIN if FOLLOWUP_BRAIN in subject.volumes else BRAIN
        joint = _enlarged(mask_of(subject, own, self), self.brain_mm, grid)
        for name in (BASELINE_CORD, FOLLOWUP_CORD):
            if name in subject.volumes:
                joint |= _enlarged(mask_of(subject, name, self), self.cord_mm, grid)
        used = (BASELINE_BRAIN, FOLLOWUP_BRAIN, BASELINE_CORD, FOLLOWUP_CORD)
        kept = {name: volume for name, volume in subject.volumes.items() if name not in used}
        return subject.replace(volumes={**kept, BRAIN: Volume(joint, grid.affine, "mask")})


def _enlarged(mask: Mask, margin_mm: float, grid: Grid) -> Mask:
    """Voxels whose centre is within a margin of one of the mask.

    Squared distances are carried along one axis after the other, no further than the margin; a
    distance transform of a whole head at 0.5 mm takes a minute.
    """
    if not mask.any() or margin_mm <= 0:
        return mask.copy()
    limit = (margin_mm + 1e-6) ** 2
    reach = [int(np.sqrt(limit) / edge) for edge in grid.spacing_mm]
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(
        slice(max(0, part.start - far), part.stop + far)
        for part, far in zip(found, reach, strict=True)
    )
    away = np.where(mask[box], 0, np.inf).astype(np.float32)
    for axis, (far, edge) in enumerate(zip(reach, grid.spacing_mm, strict=True)):
        before = np.moveaxis(away, axis, 0)
        away = away.copy()
        after = np.moveaxis(away, axis, 0)
        for step in range(1, min(far, len(before) - 1) + 1):
            length = np.float32((step * edge) ** 2)
            np.minimum(after[step:], before[:-step] + length, out=after[step:])
            np.minimum(after[:-step], before[step:] + length, out=after[:-step])
    enlarged = np.zeros(mask.shape, bool)
    enlarged[box] = away <= np.float32(limit)
    return enlarged
