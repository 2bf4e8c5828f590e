"""Run-length encoding of masks: a few thousand foreground runs instead of millions of voxels.

New lesions fill about one voxel in two thousand. One pass over memory, eight voxels at a time,
lists the stretches of foreground; numbering components and counting overlaps then work on these
runs, so their cost follows the lesions and not the size of the scan.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numba
import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import MssegError, Problem

Indices = NDArray[np.int64]

_BLOCK = 64  # words (512 voxels) that are tested together; the compiler turns this into SIMD code


@dataclasses.dataclass(frozen=True)
class ForegroundRuns:
    """Foreground of one mask as runs of voxels.

    Args:
        voxels: all voxels in memory order, non-zero is lesion.
        shape: (X, Y, Z) in voxels.
        size: the same from the fastest axis in memory to the slowest.
        x_fastest: whether the first axis is the fastest one, as in a file.
        start: (runs,) memory index of the first voxel of each run, ascending.
        stop: (runs,) one past its last voxel; a run never leaves its row.
        component: (runs,) number of its 6-connected component, 0-based, in order of appearance.
        components: how many there are.
    """

    voxels: NDArray[np.uint8]
    shape: tuple[int, int, int]
    size: tuple[int, int, int]
    x_fastest: bool
    start: Indices
    stop: Indices
    component: Indices
    components: int

    @property
    def total(self) -> int:
        """Number of foreground voxels."""
        return int((self.stop - self.start).sum())


@dataclasses.dataclass(frozen=True)
class Components:
    """The components of a mask, largest first, ties by first voxel (x runs fastest).

    Args:
        voxels: (n,) size.
        centre: (n, 3) mean voxel index, order X, Y, Z.
        low: (n, 3) smallest voxel index.
        high: (n, 3) largest voxel index, inclusive.
        of_run: (runs,) which of them each run belongs to.
    """

    voxels: Indices
    centre: NDArray[np.float64]
    low: Indices
    high: Indices
    of_run: Indices


def find_runs(mask: NDArray[np.generic], x_fastest: bool | None = None) -> ForegroundRuns:
    """List the runs of a mask and number its 6-connected components.

    Args:
        mask: (X, Y, Z) bool or integer, non-zero is lesion. A C- or Fortran-ordered array of one
            byte per voxel is read in place, anything else is copied once.
        x_fastest: layout to bring the mask to; None keeps its own. Two masks are compared in one.

    Raises:
        MssegError: not three axes, an empty axis, or values that are not whole numbers
            (probabilities must be thresholded before).
    """
    array = np.asarray(mask)
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "buiB":
        raise MssegError(
            Problem(
                "evaluate.mask",
                "a mask to be scored must be a three-dimensional array of whole numbers",
                field="array",
                found=f"shape {array.shape}, type {array.dtype}",
                expected="(X, Y, Z), bool or integer",
                remedy="threshold the probability and drop single axes first",
            )
        )
    if array.dtype.itemsize != 1:
        array = array != 0
    if x_fastest is None:
        x_fastest = bool(array.flags.f_contiguous) and not array.flags.c_contiguous
    array = np.asarray(array, order="F" if x_fastest else "C")
    voxels = array.reshape(-1, order="F" if x_fastest else "C").view(np.uint8)
    if voxels.ctypes.data % 8:
        voxels = voxels.copy()  # words are read eight bytes at a time
    words = voxels[: voxels.size // 8 * 8].view(np.uint64)
    x, y, z = array.shape
    size = (x, y, z) if x_fastest else (z, y, x)
    start, stop = _scan(voxels, words, size[0])
    component, components = _number(start, stop, size[0], size[1])
    return ForegroundRuns(voxels, (x, y, z), size, x_fastest, start, stop, component, components)


def describe_components(runs: ForegroundRuns) -> Components:
    """Size, place and rank of every component."""
    voxels, total, low, high, first = _measure(
        runs.start, runs.stop, runs.component, runs.components, *runs.size, runs.x_fastest
    )
    order = np.lexsort((first, -voxels))
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    axes = slice(None) if runs.x_fastest else slice(None, None, -1)
    return Components(
        voxels=voxels[order],
        centre=(total / np.maximum(voxels, 1)[:, None])[order][:, axes],
        low=low[order][:, axes],
        high=high[order][:, axes],
        of_run=rank[runs.component],
    )


def content_hash(runs: ForegroundRuns) -> str:
    """16 hex digits that change with the shape and with every voxel, not with the layout."""
    length = runs.stop - runs.start
    first = np.repeat(runs.start - np.cumsum(length) + length, length)
    voxels = first + np.arange(first.size)
    if not runs.x_fastest:
        nz, ny, nx = runs.size
        z, y, x = voxels % nz, voxels // nz % ny, voxels // (nz * ny)
        voxels = np.sort(x + nx * (y + ny * z))
    digest = hashlib.sha256(np.array(runs.shape, "<i8").tobytes())
    digest.update(voxels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def count_overlaps(
    reference: ForegroundRuns,
    reference_of_run: Indices,
    prediction: ForegroundRuns,
    prediction_of_run: Indices,
) -> tuple[Indices, Indices, Indices]:
    """Number of common voxels of each pair of components that overlap.

    Returns:
        component of the reference, component of the prediction, voxels; ordered by the first two.
    """
    rows, columns, shared = _intersect(
        reference.start,
        reference.stop,
        reference_of_run,
        prediction.start,
        prediction.stop,
        prediction_of_run,
    )
    key = rows * max(prediction.components, 1) + columns
    unique, inverse = np.unique(key, return_inverse=True)
    voxels = np.bincount(inverse, weights=shared, minlength=unique.size).astype(np.int64)
    return (
        unique // max(prediction.components, 1),
        unique % max(prediction.components, 1),
        voxels,
    )


@numba.njit(cache=True, nogil=True)
def _scan(voxels, words, row_length):  # noqa: ANN001, ANN202
    """ForegroundRuns of non-zero bytes, cut at the ends of rows."""
    start = np.empty(1024, np.int64)
    stop = np.empty(1024, np.int64)
    runs = 0
    blocks = words.size // _BLOCK
    for block in range(blocks + 1):
        first = block * _BLOCK
        if block < blocks:
            anything = np.uint64(0)
            for k in range(_BLOCK):
                anything |= words[first + k]
            if anything == 0:
                continue
        last_word = min(first + _BLOCK, words.size)
        # one step past the last word covers the bytes that do not fill a word
        for word in range(first, last_word + (1 if block == blocks else 0)):
            if word < words.size and words[word] == 0:
                continue
            for i in range(word * 8, min(word * 8 + 8, voxels.size)):
                if voxels[i] == 0:
                    continue
                if runs and stop[runs - 1] == i and i % row_length:
                    stop[runs - 1] = i + 1
                    continue
                if runs == start.size:
                    start = np.concatenate((start, np.empty_like(start)))
                    stop = np.concatenate((stop, np.empty_like(stop)))
                start[runs] = i
                stop[runs] = i + 1
                runs += 1
    return start[:runs].copy(), stop[:runs].copy()


@numba.njit(cache=True, nogil=True)
def _root(parent, i):  # noqa: ANN001, ANN202
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def _number(start, stop, row_length, rows):  # noqa: ANN001, ANN202
    """Union of runs that share a face: with the row before, and the same row one slice before."""
    runs = start.size
    parent = np.arange(runs)
    for to_slice_before in (False, True):
        shift = row_length * (rows if to_slice_before else 1)
        j = 0
        for i in range(runs):
            if not to_slice_before and (start[i] // row_length) % rows == 0:
                continue  # first row of a slice: the row before lies in another slice
            low, high = start[i] - shift, stop[i] - shift
            while j < runs and stop[j] <= low:
                j += 1
            k = j
            while k < runs and start[k] < high:
                a, b = _root(parent, i), _root(parent, k)
                parent[max(a, b)] = min(a, b)
                k += 1
    component = np.empty(runs, np.int64)
    count = 0
    for i in range(runs):
        root = _root(parent, i)
        if root == i:
            component[i] = count
            count += 1
        else:
            component[i] = component[root]
    return component, count


@numba.njit(cache=True, nogil=True)
def _measure(start, stop, component, components, nx, ny, nz, x_fastest):  # noqa: ANN001, ANN202
    """Size, index sums, bounding box and first voxel (in file order) of each component."""
    voxels = np.zeros(components, np.int64)
    total = np.zeros((components, 3), np.float64)
    low = np.full((components, 3), np.iinfo(np.int64).max, np.int64)
    high = np.full((components, 3), -1, np.int64)
    first = np.full(components, np.iinfo(np.int64).max, np.int64)
    for i in range(start.size):
        c = component[i]
        row = start[i] // nx
        x, y, z = start[i] - row * nx, row % ny, row // ny
        length = stop[i] - start[i]
        voxels[c] += length
        total[c, 0] += length * (x + (length - 1) / 2)
        total[c, 1] += length * y
        total[c, 2] += length * z
        low[c, 0] = min(low[c, 0], x)
        low[c, 1] = min(low[c, 1], y)
        low[c, 2] = min(low[c, 2], z)
        high[c, 0] = max(high[c, 0], x + length - 1)
        high[c, 1] = max(high[c, 1], y)
        high[c, 2] = max(high[c, 2], z)
        # where the slowest axis of the file is the fastest in memory, the first voxel of a run
        # still comes first in file order
        first[c] = min(first[c], start[i] if x_fastest else z + nz * (y + ny * x))
    return voxels, total, low, high, first


@numba.njit(cache=True, nogil=True)
def _intersect(start_a, stop_a, label_a, start_b, stop_b, label_b):  # noqa: ANN001, ANN202
    """Pairs of runs that overlap, by a merge of two ascending lists."""
    capacity = start_a.size + start_b.size
    rows = np.empty(capacity, np.int64)
    columns = np.empty(capacity, np.int64)
    shared = np.empty(capacity, np.int64)
    pairs = 0
    j = 0
    for i in range(start_a.size):
        while j < start_b.size and stop_b[j] <= start_a[i]:
            j += 1
        k = j
        while k < start_b.size and start_b[k] < stop_a[i]:
            rows[pairs] = label_a[i]
            columns[pairs] = label_b[k]
            shared[pairs] = min(stop_a[i], stop_b[k]) - max(start_a[i], start_b[k])
            pairs += 1
            k += 1
    return rows[:pairs], columns[:pairs], shared[:pairs]
