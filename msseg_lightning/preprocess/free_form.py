"""Free-form registration by mutual information with an analytic gradient.

ITK's Mattes metric keeps the derivative of its whole histogram by every parameter: with control
points 10 mm apart in a head, 40 x 40 x 47,000 numbers that each evaluation fills and adds up, some
15 s of processor time. Here the derivative by the value of one voxel is read from the histogram,
and one product with the splines' own matrices along each axis carries it to all control points:
0.1 s.
"""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from msseg_lightning.core.volume import Affine, Grid, Volume
from msseg_lightning.preprocess.space import inverse

Array = NDArray[np.float64]

SPREAD = (0.1, 99.9)
"""Percentiles of an image at the ends of its histogram, so that bright vessels are clipped."""


def cubic(distance: Array) -> Array:
    """The cubic B-spline, 0 beyond two units."""
    far = np.abs(distance)
    inner, outer = 2 / 3 - far**2 + far**3 / 2, (2 - far) ** 3 / 6
    return np.where(far < 1, inner, np.where(far < 2, outer, 0.0))


def cubic_slope(distance: Array) -> Array:
    """Derivative of ``cubic``."""
    far = np.abs(distance)
    inner, outer = -2 * far + 1.5 * far**2, -((2 - far) ** 2) / 2
    return np.sign(distance) * np.where(far < 1, inner, np.where(far < 2, outer, 0.0))


@dataclasses.dataclass(frozen=True)
class SplineField:
    """Displacements in mm that cubic B-splines make of control points on an axis-aligned lattice.

    Args:
        coefficients: (3, A, B, C), right, anterior and superior.
        origin_mm: world position of the first control point.
        control_mm: distance of control points.
    """

    coefficients: Array
    origin_mm: tuple[float, float, float]
    control_mm: float

    @classmethod
    def over(cls, grid: Grid, control_mm: float) -> SplineField:
        """A field of zeros with one control point beyond each border of an axis-aligned grid."""
        corners = grid.corners_mm()
        low, high = corners.min(0), corners.max(0)
        counts = np.ceil((high - low) / control_mm).astype(int) + 3
        middle = (low + high) / 2 - (counts - 1) * control_mm / 2
        return cls(np.zeros((3, *counts)), tuple(middle.tolist()), control_mm)

    def basis(self, grid: Grid) -> list[Array]:
        """Values of the splines for each axis of an axis-aligned grid: (voxels, control points)."""
        found = []
        for axis in range(3):
            world = grid.affine[axis, 3] + grid.affine[axis, axis] * np.arange(grid.shape[axis])
            points = np.arange(self.coefficients.shape[axis + 1])
            place = (world - self.origin_mm[axis]) / self.control_mm
            found.append(cubic(place[:, None] - points))
        return found

    def on(self, grid: Grid) -> Array:
        """(3, X, Y, Z) displacements at the voxels of an axis-aligned grid."""
        return spread(self.coefficients, self.basis(grid))


def spread(values: Array, matrices: list[Array]) -> Array:
    """Apply a matrix along each of the last three axes of (3, A, B, C)."""
    for axis, matrix in enumerate(matrices):
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis + 1)), 0, axis + 1)
    return values


@numba.njit(cache=True, nogil=True)
def sample(data: NDArray[np.float32], places: Array) -> tuple[Array, Array]:
    """Linear interpolation and its gradient.

    Args:
        data: (X, Y, Z).
        places: (3, N) in voxels.

    Returns:
        (N,) values and (3, N) their derivatives by the place. Outside of the outermost centres
        an image goes on with the value of its border: any other would be an edge there.
    """
    width, height, depth = data.shape
    count = places.shape[1]
    values, slopes = np.zeros(count), np.zeros((3, count))
    for n in range(count):
        x, y, z = places[0, n], places[1, n], places[2, n]
        held = (not 0 <= x <= width - 1, not 0 <= y <= height - 1, not 0 <= z <= depth - 1)
        x = min(max(x, 0.0), width - 1.0)
        y = min(max(y, 0.0), height - 1.0)
        z = min(max(z, 0.0), depth - 1.0)
        i, j, k = min(int(x), width - 2), min(int(y), height - 2), min(int(z), depth - 2)
        u, v, w = x - i, y - j, z - k
        near = (1 - w) * data[i, j, k] + w * data[i, j, k + 1]
        back = (1 - w) * data[i, j + 1, k] + w * data[i, j + 1, k + 1]
        near_right = (1 - w) * data[i + 1, j, k] + w * data[i + 1, j, k + 1]
        back_right = (1 - w) * data[i + 1, j + 1, k] + w * data[i + 1, j + 1, k + 1]
        left = (1 - v) * near + v * back
        right = (1 - v) * near_right + v * back_right
        values[n] = (1 - u) * left + u * right
        slopes[0, n] = right - left
        slopes[1, n] = (1 - u) * (back - near) + u * (back_right - near_right)
        slopes[2, n] = (1 - u) * (
            (1 - v) * (data[i, j, k + 1] - data[i, j, k])
            + v * (data[i, j + 1, k + 1] - data[i, j + 1, k])
        ) + u * (
            (1 - v) * (data[i + 1, j, k + 1] - data[i + 1, j, k])
            + v * (data[i + 1, j + 1, k + 1] - data[i + 1, j + 1, k])
        )
        for axis in range(3):
            if held[axis]:
                slopes[axis, n] = 0.0
    return values, slopes


class MutualInformation:
    """Mutual information of two images and its derivative by the moving image's values.

    Fixed values are counted in the bin they fall into, moving ones by cubic B-splines over four
    bins, as in Mattes et al. 2003 (https://doi.org/10.1109/TMI.2002.803111).

    Args:
        fixed: (N,) values of the fixed image.
        low: value of the moving image at the low end of its histogram.
        high: at the high end; values beyond an end count there.
        bins: of each image.
    """

    def __init__(self, fixed: Array, low: float, high: float, bins: int) -> None:
        ends = np.percentile(fixed, SPREAD)
        width = (ends[1] - ends[0]) / bins or 1.0
        self.row = np.clip((fixed - ends[0]) // width, 0, bins - 1).astype(np.intp)
        self.bins = bins
        self.low, self.width = low, (high - low) / (bins - 3) or 1.0

    def __call__(self, moving: Array) -> tuple[float, Array]:
        """(N,) values -> mutual information in nats and its derivative by each of them."""
        place = (moving - self.low) / self.width + 1
        held = (place < 1) | (place > self.bins - 2)
        place = np.clip(place, 1, self.bins - 2)
        first = np.clip(np.floor(place).astype(np.intp) - 1, 0, self.bins - 4)
        cells = self.row * self.bins + first
        joint = np.zeros(self.bins**2)
        for step in range(4):
            weight = cubic(place - first - step)
            joint += np.bincount(cells + step, weight, minlength=self.bins**2)
        joint = joint.reshape(self.bins, self.bins) / len(moving)
        rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(joint > 0, np.log(joint / (rows * columns)), 0.0)
            term = np.where(joint > 0, np.log(joint / columns), 0.0).ravel()
        slope = np.zeros(len(moving))
        for step in range(4):
            slope += cubic_slope(place - first - step) * term[cells + step]
        slope[held] = 0
        return float((joint * ratio).sum()), slope / (self.width * len(moving))


def free_form(
    fixed: Volume,
    moving: Volume,
    start: Affine,
    controls_mm: tuple[float, ...],
    iterations: int,
    bins: int,
) -> list[SplineField]:
    """Find displacements that, summed and followed by ``start``, maximise mutual information.

    Args:
        fixed: axis-aligned; every voxel of it is a sample.
        moving: axis-aligned.
        start: (4, 4), fixed world -> moving world.
        controls_mm: distances of control points, coarse to fine; what one leaves is the next one's.
        iterations: most steps of L-BFGS for each.
        bins: of the histograms.
    """
    data = np.asarray(moving.data, np.float32)
    low, high = np.percentile(data, SPREAD)
    measure = MutualInformation(np.asarray(fixed.data, float).ravel(), low, high, bins)
    voxel = np.stack(np.meshgrid(*map(np.arange, fixed.grid.shape), indexing="ij"), 0)
    to_index = inverse(moving.affine) @ start  # fixed world -> voxel of the moving image
    world = np.einsum("ij,jxyz->ixyz", fixed.affine[:3, :3], voxel)
    world += fixed.affine[:3, 3][:, None, None, None]
    found: list[SplineField] = []
    for control_mm in controls_mm:
        field = SplineField.over(fixed.grid, control_mm)
        matrices = field.basis(fixed.grid)
        back = [matrix.T for matrix in matrices]
        before = world + sum(
            (each.on(fixed.grid) for each in found), np.zeros(3)[:, None, None, None]
        )

        def unlike(
            numbers: Array,
            shape: tuple[int, ...] = field.coefficients.shape,
            matrices: list[Array] = matrices,
            back: list[Array] = back,
            before: Array = before,
        ) -> tuple[float, Array]:
            there = before + spread(numbers.reshape(shape), matrices)
            place = np.einsum("ij,jxyz->ixyz", to_index[:3, :3], there)
            place += to_index[:3, 3][:, None, None, None]
            sampled, along = sample(data, place.reshape(3, -1))
            value, slope = measure(sampled)
            along = (slope * along).reshape(place.shape)
            by_world = np.einsum("ij,ixyz->jxyz", to_index[:3, :3], along)
            return -value, -spread(by_world, back).ravel()

        result = optimize.minimize(
            unlike,
            np.zeros(field.coefficients.size),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxfun": 2 * iterations},
        )
        numbers = result.x.reshape(field.coefficients.shape)
        found.append(dataclasses.replace(field, coefficients=numbers))
    return found
