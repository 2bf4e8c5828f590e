"""Grey levels of a pair, and candidates where their ratio rose (S22)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.candidates import CANDIDATES, Candidates
from msseg_lightning.core.lesion import Connectivity
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, mask_of

ROUNDING = 1e-6
"""Relative tolerance of lengths and volumes, for rounding in headers."""


@dataclasses.dataclass(frozen=True)
class MatchBaseline:
    """Give the baseline the histogram of the follow-up inside a mask; 0 outside for both.

    Args:
        mask: its name. An empty one leaves the images as they are, with a note.
    """

    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        from skimage.exposure import match_histograms

        grid = common_grid(subject, self)
        inside = mask_of(subject, self.mask, self)
        if not inside.any():
            return subject.replace(f"{self.mask} is empty: histograms not matched")
        scans = [np.asarray(subject.volumes[n].data, np.float32) for n in (BASELINE, FOLLOWUP)]
        matched = [np.zeros(grid.shape, np.float32) for _ in scans]
        matched[0][inside] = match_histograms(scans[0][inside], scans[1][inside])
        matched[1][inside] = scans[1][inside]
        changed = {
            name: Volume(data, grid.affine)
            for name, data in zip((BASELINE, FOLLOWUP), matched, strict=True)
        }
        return subject.replace(volumes={**subject.volumes, **changed})


@dataclasses.dataclass(frozen=True)
class RatioCandidates:
    """Reduce both visits to a few grey levels; add the mask ``candidates`` where F / B rose.

    In order: the ratio of follow-up to baseline exceeds a limit inside the brain; opening by a
    ball; components below a volume go; what lies outside the eroded brain goes. Levels are
    counted from 1, so a rise by one of six levels is a ratio of 1.2 or more.

    Args:
        levels: of equal width between two percentiles of the follow-up in the brain, for both
            visits; 0 outside.
        percentiles: those two; values beyond count to the outermost levels.
        ratio: limit, which must be exceeded.
        source: whether the ratio is that of the ``discretised`` images or of the ``matched`` ones
            before.
        opening_mm: radius of the ball; 0, or less than a voxel, opens nothing.
        least_mm3: volume of a component; exactly this stays.
        erosion_mm: radius of the ball by which the brain is eroded.
        connectivity: what is one component.
    """

    levels: int = 6
    percentiles: tuple[float, float] = (0.5, 99.5)
    ratio: float = 1.15
    source: Literal["discretised", "matched"] = "discretised"
    opening_mm: float = 1.0
    least_mm3: float = 7.0
    erosion_mm: float = 1.0
    connectivity: Connectivity = 26

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentiles", tuple(self.percentiles))
        if self.source not in ("discretised", "matched"):
            raise ValueError(f"source is discretised or matched, not {self.source!r}")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        scans = [np.asarray(subject.volumes[n].data, np.float32) for n in (BASELINE, FOLLOWUP)]
        reduced = [np.zeros(grid.shape, np.float32) for _ in scans]
        if brain.any():
            ends = np.percentile(scans[1][brain], self.percentiles)
            for scan, level in zip(scans, reduced, strict=True):
                level[brain] = self.grey_levels(scan[brain], float(ends[0]), float(ends[1]))
        first, second = reduced if self.source == "discretised" else scans
        found = self.candidates(first, second, brain, grid.spacing_mm)
        volumes = {
            **subject.volumes,
            BASELINE: Volume(reduced[0], grid.affine),
            FOLLOWUP: Volume(reduced[1], grid.affine),
            CANDIDATES: Volume(found, grid.affine, "mask"),
        }
        return subject.replace(volumes=volumes)

    def grey_levels(
        self, values: NDArray[np.float32], low: float, high: float
    ) -> NDArray[np.float32]:
        """Levels 1 to ``levels`` of values, whose ends are at ``low`` and ``high``."""
        share = (values - low) / max(high - low, 1e-6)
        return np.clip(np.floor(share * self.levels) + 1, 1, self.levels).astype(np.float32)

    def candidates(
        self,
        baseline: NDArray[np.float32],
        followup: NDArray[np.float32],
        brain: NDArray[np.bool_],
        spacing_mm: tuple[float, float, float],
    ) -> NDArray[np.bool_]:
        """(X, Y, Z) mask of the candidates."""
        risen = brain & (baseline > 0) & (followup > np.float32(self.ratio) * baseline)
        risen = ndimage.binary_opening(risen, ball(self.opening_mm, spacing_mm))
        found = Candidates.of(risen, spacing_mm, self.connectivity)
        volumes = found.sizes * float(np.prod(spacing_mm))
        kept = found.select(volumes >= self.least_mm3 * (1 - ROUNDING)).mask
        core = ndimage.binary_erosion(brain, ball(self.erosion_mm, spacing_mm))
        return np.asarray(kept & core)


def ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Voxels whose centres lie within a radius of the middle one."""
    reach = [int(radius_mm / edge * (1 + ROUNDING)) for edge in spacing_mm]
    axes = np.ogrid[tuple(slice(-steps, steps + 1) for steps in reach)]
    squares = [(axis * edge) ** 2 for axis, edge in zip(axes, spacing_mm, strict=True)]
    distance = squares[0] + squares[1] + squares[2]
    return np.asarray(distance <= (radius_mm * (1 + ROUNDING)) ** 2)
