"""What is told of every voxel of a pair, and of every candidate, to a classifier."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import expand_labels

from msseg_lightning.core.candidates import Candidates
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP

LEAST_WEIGHT = 1e-3
"""Least share of the brain in a smoothed neighbourhood for it to have a mean."""

FACES = tuple((axis, step) for axis in range(3) for step in (-1, 1))
"""Axis and shift of the image: the neighbours to the right, left, anterior, posterior, superior and
inferior of a voxel on a RAS+ grid."""


class VoxelTable(NamedTuple):
    """Features of the voxels of a pair.

    Attributes:
        values: (n, columns) float32, a row for each voxel of ``inside`` in array order.
        inside: (X, Y, Z), the brain where both visits were seen.
    """

    values: NDArray[np.float32]
    inside: NDArray[np.bool_]

    def image(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """(X, Y, Z) with a value (n,) at each voxel inside, 0 elsewhere."""
        found = np.zeros(self.inside.shape, np.float32)
        found[self.inside] = values
        return found


@dataclasses.dataclass(frozen=True)
class PairFeatures:
    """Features of voxels and of candidates of a prepared pair.

    Of a voxel: both visits and their difference there, at its six neighbours and smoothed at
    several scales, the visits less their surroundings, the difference over its standard deviation
    around, the slope of the baseline (where a shift between the visits shows), the depth in the
    brain, and ``images``, smoothed once.

    Of a candidate: the mean of each of these in it, the greatest probability and difference, the
    means in the shell around it, and its size, its extent along its axes and its rank.

    Args:
        images: further images of the pair, such as maps of earlier stages and of an atlas.
        scales_mm: standard deviations of the Gaussians.
        shell_mm: thickness of what is around a candidate.
    """

    images: tuple[str, ...] = ()
    scales_mm: tuple[float, ...] = (1.5, 3.0, 6.0)
    shell_mm: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "scales_mm", tuple(self.scales_mm))

    @functools.cached_property
    def voxel_names(self) -> tuple[str, ...]:
        """Columns of ``of_voxels``."""
        scales = [f"{scale:g}mm" for scale in self.scales_mm]
        return (
            *("baseline", "followup", "rise", "noise", "rise_over_noise"),
            *(f"rise_face{number}" for number in range(len(FACES))),
            *(f"followup_face{number}" for number in range(len(FACES))),
            *("rise_least", "rise_median", "slope", "depth"),
            *(f"{name}_{scale}" for scale in scales for name in ("baseline", "followup", "rise")),
            *(f"{name}_over_{scales[-1]}" for name in ("baseline", "followup")),
            *self.images,
            *(f"{name}_{scales[0]}" for name in self.images if not name.startswith("place_")),
        )

    @functools.cached_property
    def candidate_names(self) -> tuple[str, ...]:
        """Columns of ``of_candidates``."""
        return (
            *("probability_most", "probability_mean", "probability_sum"),
            *("volume_mm3", "axis_least_mm", "axis_middle_mm", "axis_most_mm", "filling"),
            *("rank", "rivals", "rise_most", "followup_most"),
            *(f"mean_{name}" for name in self.voxel_names),
            *(f"shell_{name}" for name in ("baseline", "followup", "rise", "probability")),
            *(f"most_{name}" for name in self.images if not name.startswith("place_")),
        )

    def of_voxels(self, pair: PreparedSubject) -> VoxelTable:
        """Features of the voxels of the brain that both visits show."""
        baseline, followup = pair.image(BASELINE), pair.image(FOLLOWUP)
        inside = pair.mask(BRAIN) & (baseline != 0) & (followup != 0)
        table = np.empty((int(inside.sum()), len(self.voxel_names)), np.float32)
        for column, data in enumerate(self._maps(pair, baseline, followup, inside)):
            table[:, column] = data if data.ndim == 1 else data[inside]
        return VoxelTable(table, inside)

    def _maps(
        self,
        pair: PreparedSubject,
        baseline: NDArray[np.float32],
        followup: NDArray[np.float32],
        inside: NDArray[np.bool_],
    ) -> Iterator[NDArray[np.float32]]:
        """The columns of voxels in order, as volumes or as values inside."""
        spacing = np.array(pair.grid.spacing_mm)
        smooth = functools.partial(_Smoothing, inside)
        visits = [np.where(inside, image, 0) for image in (baseline, followup)]
        rise = visits[1] - visits[0]
        wide = smooth(self.scales_mm[-1] / spacing)
        around = wide(rise)
        noise = np.sqrt(np.maximum(wide(rise * rise) - around * around, 0))
        yield from (*visits, rise, noise, rise / np.maximum(noise, 1e-3))
        for image in (rise, visits[1]):
            for axis, step in FACES:
                yield np.roll(image, step, axis)  # of the padding at most: a brain has a margin
        yield ndimage.minimum_filter(rise, 2)
        yield ndimage.median_filter(rise, 3)
        yield np.sqrt(
            sum(np.gradient(visits[0], edge, axis=axis) ** 2 for axis, edge in enumerate(spacing))
        ).astype(np.float32)
        yield ndimage.distance_transform_edt(inside, sampling=spacing).astype(np.float32)
        for scale in self.scales_mm:
            kernel = smooth(scale / spacing)
            yield from (kernel(image) for image in (*visits, rise))
        yield from (image - wide(image) for image in visits)
        further = {name: pair.image(name) for name in self.images}
        yield from further.values()
        fine = smooth(self.scales_mm[0] / spacing)
        for name, image in further.items():
            if not name.startswith("place_"):
                yield fine(np.where(inside, image, 0))

    def of_candidates(
        self, voxels: VoxelTable, probability: NDArray[np.float32], candidates: Candidates
    ) -> NDArray[np.float32]:
        """(n, columns) float32, a row for each candidate.

        Args:
            voxels: of the pair, from ``of_voxels``.
            probability: (X, Y, Z), of which the candidates were cut.
            candidates: inside the brain.
        """
        count = len(candidates)
        if not count:
            return np.zeros((0, len(self.candidate_names)), np.float32)
        numbers = np.arange(1, count + 1)
        labels = candidates.labels[voxels.inside].astype(np.int64)
        own = labels > 0
        sizes = np.bincount(labels, minlength=count + 1)[1:]
        likely = probability[voxels.inside]
        column = {name: voxels.values[:, place] for place, name in enumerate(self.voxel_names)}

        def mean(values: NDArray[np.floating], where: NDArray[np.int64]) -> NDArray[np.floating]:
            total = np.bincount(where, values, minlength=count + 1)[1:]
            return total / np.maximum(np.bincount(where, minlength=count + 1)[1:], 1)

        def most(values: NDArray[np.floating]) -> NDArray[np.floating]:
            return np.asarray(ndimage.maximum(values[own], labels[own], numbers))

        numbered = candidates.labels.astype(np.int32)
        grown = expand_labels(numbered, self.shell_mm, spacing=candidates.spacing_mm)
        shell = np.where(candidates.labels > 0, 0, grown)[voxels.inside].astype(np.int64)
        total = np.bincount(labels, likely, minlength=count + 1)[1:]
        rank = np.empty(count)
        rank[np.argsort(-total, kind="stable")] = np.arange(count)
        volume = sizes * np.prod(candidates.spacing_mm)
        axes = np.array([_axes_mm(candidates, number) for number in range(count)])
        columns = [
            most(likely),
            mean(likely, labels),
            total,
            volume,
            *axes.T,
            volume / np.maximum(np.prod(axes + np.mean(candidates.spacing_mm), axis=1), 1e-6),
            rank,
            np.full(count, count),
            most(column["rise"]),
            most(column["followup"]),
            *(mean(column[name], labels) for name in self.voxel_names),
            *(mean(column[name], shell) for name in ("baseline", "followup", "rise")),
            mean(likely, shell),
            *(most(column[name]) for name in self.images if not name.startswith("place_")),
        ]
        return np.stack(columns, axis=1).astype(np.float32)


class _Smoothing:
    """Gaussian means of the voxels inside alone."""

    def __init__(self, inside: NDArray[np.bool_], sigma: NDArray[np.floating]) -> None:
        self.sigma = sigma
        weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, truncate=3.0)
        self.weight = np.maximum(weight, LEAST_WEIGHT)

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """(X, Y, Z) of an image that is 0 outside."""
        smooth = ndimage.gaussian_filter(image, self.sigma, truncate=3.0)
        return np.asarray(smooth / self.weight, np.float32)


def _axes_mm(candidates: Candidates, number: int) -> NDArray[np.float64]:
    """(3,) ascending lengths of the axes of a candidate, four standard deviations each."""
    points = np.argwhere(candidates.within(number)) * np.asarray(candidates.spacing_mm)
    if len(points) < 2:
        return np.zeros(3)
    variances = np.linalg.eigvalsh(np.cov(points, rowvar=False, bias=True))
    return np.asarray(4 * np.sqrt(np.maximum(variances, 0)))
