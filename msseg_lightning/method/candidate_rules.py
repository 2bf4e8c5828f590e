"""Rules on single candidates: size, place, contrast, shape (S16), consistency over time (S03)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.candidates import Candidates, widened
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import FOLLOWUP

ROUNDING = 1e-6
"""Relative tolerance of lengths and shares."""


@dataclasses.dataclass(frozen=True)
class AtLeastVoxels:
    """Keep candidates of a number of voxels or more.

    Args:
        voxels: least number.
    """

    voxels: int

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        return np.asarray(candidates.sizes >= self.voxels)


@dataclasses.dataclass(frozen=True)
class ShareInside:
    """Keep candidates of which a share lies in a mask.

    Args:
        mask: of the prepared pair.
        share: of the voxels of a candidate, in [0, 1]; exactly this share is enough.
    """

    mask: str
    share: float

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        inside = candidates.count_in(pair.mask(self.mask))
        return np.asarray(inside >= self.share * candidates.sizes * (1 - ROUNDING))


@dataclasses.dataclass(frozen=True)
class NotTouching:
    """Remove candidates that touch one of several masks.

    Args:
        masks: of the prepared pair.
        touch: ``shared`` is a voxel in common; ``dilated`` also one next to the candidate by a
            face.
        share: of the voxels of a candidate that may lie in the masks before it touches them; 0
            lets one voxel be enough. With ``dilated`` the voxels around it are counted as well.
    """

    masks: tuple[str, ...]
    touch: Literal["shared", "dilated"] = "shared"
    share: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", tuple(self.masks))
        if self.touch not in ("shared", "dilated"):
            raise ValueError(f"touch is shared or dilated, not {self.touch!r}")

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        region = np.zeros(candidates.labels.shape, bool)
        for mask in self.masks:
            region |= pair.mask(mask)
        touched = candidates.count_in(region)
        if self.touch == "dilated":
            for index in range(len(candidates)):
                box, own = _around(candidates, index, 1)
                touched[index] = (ndimage.binary_dilation(own) & region[box]).sum()
        return np.asarray(touched <= self.share * candidates.sizes * (1 + ROUNDING))


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Keep candidates that stand out from what is around them.

    The contrast is the mean of an image in the candidate minus, or divided by, its mean in the
    shell around it: the voxels within some steps by a face that belong to no candidate.

    Args:
        least: of the contrast; exactly this is enough.
        shell: thickness in voxels.
        measure: ``difference`` is meaningful for z-scores, ``ratio`` for intensities above 0.
        image: of the prepared pair.
    """

    least: float
    shell: int = 2
    measure: Literal["difference", "ratio"] = "difference"
    image: str = FOLLOWUP

    def __post_init__(self) -> None:
        if self.measure not in ("difference", "ratio"):
            raise ValueError(f"measure is difference or ratio, not {self.measure!r}")

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        image, taken = pair.image(self.image), candidates.mask
        found = np.zeros(len(candidates))
        for index in range(len(candidates)):
            box, own = _around(candidates, index, self.shell)
            shell = ndimage.binary_dilation(own, iterations=self.shell) & ~taken[box]
            if not shell.any():
                continue
            inside, around = image[box][own].mean(), image[box][shell].mean()
            if self.measure == "difference":
                found[index] = inside - around
            else:
                found[index] = inside / around if around > 0 else 0.0
        return found >= self.least * (1 - ROUNDING)


@dataclasses.dataclass(frozen=True)
class ConsistentOverTime:
    """Keep candidates that are lesions at the follow-up and were none at the baseline (S03).

    Args:
        followup: map of all lesions at the follow-up, an image of the prepared pair.
        baseline: that of the baseline.
        threshold: on both, which must be exceeded.
        followup_voxels: of a candidate that lie in a lesion of the follow-up, at least.
        baseline_share: of the voxels of a candidate that lie in a lesion of the baseline; with
            exactly this share it goes.
    """

    followup: str
    baseline: str
    threshold: float = 0.5
    followup_voxels: int = 1
    baseline_share: float = 0.5

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        later, earlier = (
            candidates.count_in(pair.image(name) > self.threshold)
            for name in (self.followup, self.baseline)
        )
        old = earlier >= self.baseline_share * candidates.sizes * (1 - ROUNDING)
        return np.asarray((later >= self.followup_voxels) & ~old)


@dataclasses.dataclass(frozen=True)
class LeastAxis:
    """Keep candidates that are thick enough.

    The length is ``4 * sqrt(v)``, v the smallest eigenvalue of the covariance of the positions of
    the voxels' centres in mm (the least axis length of radiomics).

    Args:
        mm: least length; exactly this is enough.
    """

    mm: float

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        found = [
            least_axis_mm(candidates.within(index), candidates.spacing_mm)
            for index in range(len(candidates))
        ]
        return np.asarray(found) >= self.mm * (1 - ROUNDING)


@dataclasses.dataclass(frozen=True)
class Sphericity:
    """Keep candidates that are round enough.

    Args:
        least: of the sphericity, 1 for a ball; exactly this is enough.
    """

    least: float

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        found = [
            sphericity(candidates.within(index), candidates.spacing_mm)
            for index in range(len(candidates))
        ]
        return np.asarray(found) >= self.least * (1 - ROUNDING)


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """Keep candidates that at least one of two rules keeps: both must fail to remove one.

    Args:
        first: a rule.
        second: another.
    """

    first: LeastAxis | Sphericity | Contrast
    second: LeastAxis | Sphericity | Contrast

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        return self.first(pair, candidates) | self.second(pair, candidates)


def least_axis_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Length of the shortest axis of a region in mm; 0 of one that is a voxel thick."""
    points = np.argwhere(mask) * np.asarray(spacing_mm)
    if len(points) < 2:
        return 0.0
    variances = np.linalg.eigvalsh(np.cov(points, rowvar=False, bias=True))  # ascending
    return 4 * math.sqrt(max(0.0, float(variances[0])))


def sphericity(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """``(36 pi V^2)^(1/3) / A`` of a region: V by its voxels, A by marching cubes."""
    from skimage.measure import marching_cubes, mesh_surface_area

    padded = np.pad(mask, 1).astype(np.float32)
    corners, faces, _, _ = marching_cubes(padded, 0.5, spacing=spacing_mm)
    volume = float(mask.sum()) * math.prod(spacing_mm)
    return float((36 * math.pi * volume**2) ** (1 / 3) / mesh_surface_area(corners, faces))


def _around(
    candidates: Candidates, index: int, margin: int
) -> tuple[tuple[slice, slice, slice], NDArray[np.bool_]]:
    """A box wider than that of a candidate, and the candidate's voxels in it."""
    box = widened(candidates.boxes[index], margin, candidates.labels.shape)
    return box, np.asarray(candidates.labels[box] == index + 1)
