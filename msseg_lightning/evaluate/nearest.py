"""Exact nearest neighbours between two sets of voxels, without a tree and without a full map.

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

from msseg_lightning.evaluate.runs import Indices

Distances = NDArray[np.float64]

_CELL = 8  # edge of a cell in voxels; measured: 6 to 8 alike, 3 to 5 slower with many lesions
_BLOCK = 4  # edge of a block in cells
_MOST_PAIRS = 30_000_000  # pairs of cells above which the distance transform is faster


@dataclasses.dataclass(frozen=True)
class VoxelCells:
    """A set of voxels in memory order, and cell by cell for searching.

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
    # numpy sorts 16-bit numbers by radix, which pays with many lesions
    narrow = int(cell.max()) <= np.iinfo(np.uint16).max
    order = np.argsort(cell.astype(np.uint16) if narrow else cell, kind="stable")
    sorted_place = place[:, order]
    cell_start = _starts(cell[order])
    box = _boxes(sorted_place, sorted_place, cell_start)
    block_start = _starts(block_of[order[cell_start[:-1]]])
    block_box = _boxes(box[:3], box[3:], block_start)
    return VoxelCells(index, place, sorted_place, order, cell_start, box, block_start, block_box)


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
    """The same by an exact distance transform of the box around both, for very large contours."""
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


@numba.njit(cache=True, nogil=True)
def _bounds(low, high, box, k):  # noqa: ANN001, ANN202
    """Smallest and largest squared distance between points of two boxes."""
    lower, upper = 0.0, 0.0
    for axis in range(3):
        gap = max(box[axis, k] - high[axis], low[axis] - box[axis + 3, k], 0.0)
        reach = max(box[axis + 3, k] - low[axis], high[axis] - box[axis, k])
        lower += gap * gap
        upper += reach * reach
    return lower, upper


@numba.njit(cache=True, nogil=True)
def _search(place, start, box, target, target_start, target_box, block_start, block_box, enough):  # noqa: ANN001, ANN202
    """Squared distance of each source voxel to the nearest target voxel, cell by cell."""
    best_of = np.zeros(place.shape[1], np.float64)
    cells = target_box.shape[1]
    blocks = block_box.shape[1]
    block_lower = np.empty(blocks, np.float64)
    near = np.empty(cells, np.int64)
    near_lower = np.empty(cells, np.float64)
    for c in range(start.size - 1):
        low, high = box[:3, c], box[3:, c]
        upper = np.inf
        for b in range(blocks):
            block_lower[b], reach = _bounds(low, high, block_box, b)
            upper = min(upper, reach)
        count = 0
        for b in range(blocks):
            if block_lower[b] > upper:
                continue
            for t in range(block_start[b], block_start[b + 1]):
                lower, reach = _bounds(low, high, target_box, t)
                upper = min(upper, reach)
                if lower > upper:
                    continue
                # insertion keeps the nearest cells first; there are few
                k = count
                while k > 0 and near_lower[k - 1] > lower:
                    near_lower[k] = near_lower[k - 1]
                    near[k] = near[k - 1]
                    k -= 1
                near_lower[k] = lower
                near[k] = t
                count += 1
        if upper <= enough:
            continue
        nearest = target_start[near[0]]
        for p in range(start[c], start[c + 1]):
            x, y, z = place[0, p], place[1, p], place[2, p]
            # the neighbour of the voxel before is a good first guess
            dx, dy, dz = x - target[0, nearest], y - target[1, nearest], z - target[2, nearest]
            best = dx * dx + dy * dy + dz * dz
            for k in range(count):
                if near_lower[k] >= best or best <= enough:
                    break
                t = near[k]
                gap_x = max(target_box[0, t] - x, x - target_box[3, t], 0.0)
                gap_y = max(target_box[1, t] - y, y - target_box[4, t], 0.0)
                gap_z = max(target_box[2, t] - z, z - target_box[5, t], 0.0)
                if gap_x * gap_x + gap_y * gap_y + gap_z * gap_z >= best:
                    continue
                for q in range(target_start[t], target_start[t + 1]):
                    dx, dy, dz = x - target[0, q], y - target[1, q], z - target[2, q]
                    distance = dx * dx + dy * dy + dz * dz
                    if distance < best:
                        best = distance
                        nearest = q
            best_of[p] = best
    return best_of
