"""Exact nearest-neighbour distances between two sets of voxels.

Voxels are grouped in small cells, cells in blocks. For a cell of one set, the boxes around the
other set's blocks and cells give a lower and an upper bound of the distance, and only cells below
the smallest upper bound are searched. Where the sets are so large that pairs of cells outnumber
voxels, a distance transform of the common box takes over.
"""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
from numpy.typing import NDArray

from msseg_lightning.evaluate.foreground_runs import Indices

Distances = NDArray[np.float64]

_CELL = 8  # edge of a cell in voxels; measured: 6 to 8 alike, 3 to 5 slower with many lesions
_BLOCK = 4  # edge of a block in cells
_MOST_PAIRS = 30_000_000  # pairs of cells above which the distance transform is faster


@dataclasses.dataclass(frozen=True)
class VoxelCells:
    """A set of voxels in memory order, grouped into cells for searching.

    Args:
        index: (n,) memory index.
        place: (3, n) position in mm, fastest axis first.
        sorted_place: the same, cell by cell.
        order: (n,) ``sorted_place = place[:, order]``.
        cell_start: (cells + 1,) where each cell begins in ``sorted_place``.
        box: (6, cells) smallest x, y, z and largest x, y, z in each cell, mm.
        block_start: (blocks + 1,) where each block of cells begins in ``box``.
        block_box: (6, blocks) the same bounds of each block.
    """

    index: Indices
    place: Distances
    sorted_place: Distances
    order: Indices
    cell_start: Indices
    box: Distances
    block_start: Indices
    block_box: Distances


def group_voxels(index: Indices, size: tuple[int, int, int], spacing: Distances) -> VoxelCells:
    """Group voxels that lie close together."""
    place, cell, block_of = _places(index, size[0], size[1], spacing)
    order = stable_order(cell)
    sorted_place = place[:, order]
    cell_start = _starts(cell[order])
    box = _boxes(sorted_place, sorted_place, cell_start)
    block_start = _starts(block_of[order[cell_start[:-1]]])
    block_box = _boxes(box[:3], box[3:], block_start)
    return VoxelCells(index, place, sorted_place, order, cell_start, box, block_start, block_box)


def stable_order(key: Indices) -> Indices:
    """Stable argsort of numbers >= 0; numpy sorts 16-bit numbers by radix, several times faster."""
    narrow = int(key.max(initial=0)) <= np.iinfo(np.uint16).max
    return np.argsort(key.astype(np.uint16) if narrow else key, kind="stable")


def _starts(key: Indices) -> Indices:
    """Where each group of equal neighbours begins, and the end."""
    return np.concatenate(([0], np.flatnonzero(key[1:] != key[:-1]) + 1, [key.size]))


def _boxes(low: Distances, high: Distances, start: Indices) -> Distances:
    """Bounds of each group."""
    return np.concatenate(
        (
            np.minimum.reduceat(low, start[:-1], axis=1),
            np.maximum.reduceat(high, start[:-1], axis=1),
        )
    )


def nearest_distances(
    source: VoxelCells,
    target: VoxelCells,
    size: tuple[int, int, int],
    spacing: Distances,
    at_least: float = -1.0,
) -> Distances:
    """Distance of every source voxel to the target, in memory order of the source.

    With ``at_least`` only distances above it need be right; the others may be any value up to it.
    """
    if source.box.shape[1] * target.box.shape[1] > _MOST_PAIRS:
        return _transform(source, target, size, spacing)
    squared = _search(
        source.sorted_place,
        source.cell_start,
        source.box,
        target.sorted_place,
        target.cell_start,
        target.box,
        target.block_start,
        target.block_box,
        at_least * at_least if at_least >= 0 else -1.0,
    )
    distances = np.empty_like(squared)
    distances[source.order] = np.sqrt(squared)
    return distances


def _transform(
    source: VoxelCells, target: VoxelCells, size: tuple[int, int, int], spacing: Distances
) -> Distances:
    """``nearest_distances`` by a distance transform of the bounding box, for large contours."""
    from scipy.ndimage import distance_transform_edt

    points = [np.array(np.unravel_index(part.index, size[::-1])) for part in (source, target)]
    low = np.minimum(points[0].min(1), points[1].min(1))
    high = np.maximum(points[0].max(1), points[1].max(1)) + 1
    background = np.ones(high - low, dtype=bool)
    background[tuple(points[1] - low[:, None])] = False
    distances = distance_transform_edt(background, sampling=tuple(spacing[::-1]))
    return np.asarray(distances[tuple(points[0] - low[:, None])], dtype=np.float64)


@numba.njit(cache=True, nogil=True)
def _places(index, nx, ny, spacing):  # noqa: ANN001, ANN202
    """Positions in mm, and the numbers of the cell and the block each voxel lies in.

    Cells are numbered block by block, so that sorting by cell sorts by block too.
    """
    place = np.empty((3, index.size), np.float64)
    cell = np.empty(index.size, np.int64)
    block = np.empty(index.size, np.int64)
    edge = _CELL * _BLOCK
    blocks_x, blocks_y = nx // edge + 1, ny // edge + 1
    for i in range(index.size):
        row = index[i] // nx
        x, y, z = index[i] - row * nx, row % ny, row // ny
        place[0, i] = x * spacing[0]
        place[1, i] = y * spacing[1]
        place[2, i] = z * spacing[2]
        a, b, c = x // _CELL, y // _CELL, z // _CELL
        block[i] = a // _BLOCK + blocks_x * (b // _BLOCK + blocks_y * (c // _BLOCK))
        inside = a % _BLOCK + _BLOCK * (b % _BLOCK + _BLOCK * (c % _BLOCK))
        cell[i] = block[i] * _BLOCK**3 + inside
    return place, cell, block


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz"}, inline="always")
def _bounds(x0, y0, z0, x1, y1, z1, box, k):  # noqa: ANN001, ANN202
    """Smallest and largest squared distance between points of two boxes."""
    gap_x = max(box[0, k] - x1, x0 - box[3, k], 0.0)
    gap_y = max(box[1, k] - y1, y0 - box[4, k], 0.0)
    gap_z = max(box[2, k] - z1, z0 - box[5, k], 0.0)
    reach_x = max(box[3, k] - x0, x1 - box[0, k])
    reach_y = max(box[4, k] - y0, y1 - box[1, k])
    reach_z = max(box[5, k] - z0, z1 - box[2, k])
    lower = gap_x * gap_x + gap_y * gap_y + gap_z * gap_z
    upper = reach_x * reach_x + reach_y * reach_y + reach_z * reach_z
    return lower, upper


# without NaN and signed zeros the minimum becomes SIMD code; sums keep their order and rounding
@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _least(x, y, z, target, first, last):  # noqa: ANN001, ANN202
    """Smallest squared distance of a point to a range of target voxels."""
    best = np.inf
    for q in range(first, last):
        dx, dy, dz = x - target[0, q], y - target[1, q], z - target[2, q]
        best = min(best, dx * dx + dy * dy + dz * dz)
    return best


@numba.njit(cache=True, nogil=True)
def _search(place, start, box, target, target_start, target_box, block_start, block_box, enough):  # noqa: ANN001, ANN202
    """Squared distance of each source voxel to the nearest target voxel, cell by cell."""
    best_of = np.zeros(place.shape[1], np.float64)
    cells = target_box.shape[1]
    blocks = block_box.shape[1]
    block_lower = np.empty(blocks, np.float64)
    near = np.empty(cells, np.int64)
    near_lower = np.empty(cells, np.float64)
    seen_cell = np.empty(cells, np.int64)
    seen_lower = np.empty(cells, np.float64)
    for c in range(start.size - 1):
        x0, y0, z0 = box[0, c], box[1, c], box[2, c]
        x1, y1, z1 = box[3, c], box[4, c], box[5, c]
        upper = np.inf
        for b in range(blocks):
            block_lower[b], reach = _bounds(x0, y0, z0, x1, y1, z1, block_box, b)
            upper = min(upper, reach)
        seen = 0
        for b in range(blocks):
            if block_lower[b] > upper:
                continue
            for t in range(block_start[b], block_start[b + 1]):
                lower, reach = _bounds(x0, y0, z0, x1, y1, z1, target_box, t)
                upper = min(upper, reach)
                if lower <= upper:
                    seen_cell[seen] = t
                    seen_lower[seen] = lower
                    seen += 1
        count = 0
        for i in range(seen):
            if seen_lower[i] > upper:
                continue
            # insertion keeps the nearest cells first; there are few
            k = count
            while k > 0 and near_lower[k - 1] > seen_lower[i]:
                near_lower[k] = near_lower[k - 1]
                near[k] = near[k - 1]
                k -= 1
            near_lower[k] = seen_lower[i]
            near[k] = seen_cell[i]
            count += 1
        if upper <= enough:
            continue
        nearest_cell = near[0]
        for p in range(start[c], start[c + 1]):
            x, y, z = place[0, p], place[1, p], place[2, p]
            first = nearest_cell  # held the neighbour of the voxel before: a good first guess
            best = _least(x, y, z, target, target_start[first], target_start[first + 1])
            for k in range(count):
                if near_lower[k] >= best or best <= enough:
                    break
                t = near[k]
                if t == first:
                    continue
                gap_x = max(target_box[0, t] - x, x - target_box[3, t], 0.0)
                gap_y = max(target_box[1, t] - y, y - target_box[4, t], 0.0)
                gap_z = max(target_box[2, t] - z, z - target_box[5, t], 0.0)
                if gap_x * gap_x + gap_y * gap_y + gap_z * gap_z >= best:
                    continue
                distance = _least(x, y, z, target, target_start[t], target_start[t + 1])
                if distance < best:
                    best = distance
                    nearest_cell = t
            best_of[p] = best
    return best_of
