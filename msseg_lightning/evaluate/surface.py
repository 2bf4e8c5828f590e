"""Distances between the surfaces of two masks.

The contour C(A) of a mask A are its voxels with at least one of the six face neighbours inside the
image and outside A; the border of the image makes no contour (the official tool's definition;
it equals ``A & ~erosion(A)`` where no lesion touches the border). Distances are Euclidean, in mm,
between voxel centres.
"""

from __future__ import annotations

import dataclasses

import numba
import numpy as np

from msseg_lightning.evaluate.foreground_runs import ForegroundRuns, Indices
from msseg_lightning.evaluate.nearest import (
    Distances,
    group_voxels,
    nearest_distances,
    stable_order,
)


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
    """Surface distances of two masks, in mm.

    Args:
        hausdorff_mm: largest distance of a voxel of either mask to the other mask (100 percent,
            voxel sets, not contours).
        hausdorff95_mm: larger of the two directed 95th percentiles between contours, percentiles
            interpolated linearly.
        contour_mean_mm: larger of the two directed mean contour distances.
        average_symmetric_mm: mean over all voxels of both contours of the distance to the other
            contour, the usual average symmetric surface distance.
        running_minimum_mm: ``SurfaceDistance`` of the official tool: as before, but every contour
            voxel contributes the smallest distance met so far in file order. Close to zero
            whenever contours meet early, changes under flips; for comparison with published
            tables only.
    """

    hausdorff_mm: float
    hausdorff95_mm: float
    contour_mean_mm: float
    average_symmetric_mm: float
    running_minimum_mm: float


def surface_distances(
    prediction: ForegroundRuns, reference: ForegroundRuns, spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Compute the surface distances of two masks with at least one contour voxel each.

    Args:
        prediction: runs of the predicted mask.
        reference: runs of the reference, same shape and layout.
        spacing_mm: edge lengths of a voxel, order X, Y, Z.
    """
    spacing = np.array(spacing_mm if reference.x_fastest else spacing_mm[::-1], dtype=np.float64)
    contours, inner = [], []
    for mask, other in ((reference, prediction), (prediction, reference)):
        contour, hidden = _contour_voxels(
            mask.voxels, other.voxels, mask.start, mask.stop, *mask.size
        )
        contours.append(group_voxels(contour, mask.size, spacing))
        inner.append(hidden)
    true, predicted = contours
    from_true = nearest_distances(true, predicted, reference.size, spacing)
    from_predicted = nearest_distances(predicted, true, reference.size, spacing)

    # Voxel sets: a contour voxel inside the other mask is at distance 0 from it, the others as
    # above; voxels below the surface matter only where they lie farther out than all of these.
    hausdorff = 0.0
    for contour, target, distances, other, hidden in (
        (true, predicted, from_true, prediction, inner[0]),
        (predicted, true, from_predicted, reference, inner[1]),
    ):
        outside = distances[other.voxels[contour.index] == 0]
        hausdorff = max(hausdorff, float(outside.max(initial=0.0)))
        if hidden.size:
            points = group_voxels(hidden, reference.size, spacing)
            beyond = nearest_distances(points, target, reference.size, spacing, at_least=hausdorff)
            hausdorff = max(hausdorff, float(beyond.max(initial=0.0)))

    number = from_true.size + from_predicted.size
    compat = sum(
        _running_minimum_sum(_file_order(contour.index, distances, reference))
        for contour, distances in ((true, from_true), (predicted, from_predicted))
    )
    return SurfaceDistances(
        hausdorff_mm=hausdorff,
        hausdorff95_mm=max(_percentile95(from_true), _percentile95(from_predicted)),
        contour_mean_mm=float(max(from_true.mean(), from_predicted.mean())),
        average_symmetric_mm=float((from_true.sum() + from_predicted.sum()) / number),
        running_minimum_mm=compat / number,
    )


def _percentile95(values: Distances) -> float:
    """95th percentile with linear interpolation; partition instead of a full sort."""
    place = 0.95 * (values.size - 1)
    low = int(place)
    high = min(low + 1, values.size - 1)
    part = np.partition(values, (low, high))
    return float(part[low] + (part[high] - part[low]) * (place - low))


def _file_order(index: Indices, distances: Distances, runs: ForegroundRuns) -> Distances:
    """Distances with x fastest, then y, then z."""
    if runs.x_fastest:
        return distances
    # here z is fastest and x slowest; the voxels already ascend in x
    fast, middle, _ = runs.size
    return distances[stable_order(index % fast * middle + index // fast % middle)]


def _running_minimum_sum(distances: Distances) -> float:
    """Sum of the smallest values met so far; the tool starts from 1e6."""
    return float(np.minimum(np.minimum.accumulate(distances), 1e6).sum())


@numba.njit(cache=True, nogil=True)
def _contour_voxels(mask, other, start, stop, nx, ny, nz):  # noqa: ANN001, ANN202
    """Memory indices of the contour, and of voxels below it that the other mask lacks."""
    total = 0
    for i in range(start.size):
        total += stop[i] - start[i]
    contour = np.empty(total, np.int64)
    hidden = np.empty(total, np.int64)
    n = 0
    m = 0
    slab = nx * ny
    for i in range(start.size):
        row = start[i] // nx
        y, z = row % ny, row // ny
        row_start = row * nx
        for v in range(start[i], stop[i]):
            if (
                (v == start[i] and v > row_start)
                or (v == stop[i] - 1 and v < row_start + nx - 1)
                or (y > 0 and mask[v - nx] == 0)
                or (y < ny - 1 and mask[v + nx] == 0)
                or (z > 0 and mask[v - slab] == 0)
                or (z < nz - 1 and mask[v + slab] == 0)
            ):
                contour[n] = v
                n += 1
            elif other[v] == 0:
                hidden[m] = v
                m += 1
    return contour[:n].copy(), hidden[:m].copy()
