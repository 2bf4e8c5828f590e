"""Resampling from one grid to another; exact where grids share a lattice."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.volume import Affine, Grid, Kind, Volume

MaskRule = Literal["nearest", "linear_threshold", "soft"]
"""How a mask is resampled: nearest neighbour (hard labels), linear and then >= 0.5 (S12), or linear
and left between 0 and 1 (S17); the last makes it a volume of kind ``probability``."""

ImageRule = Literal["linear", "nearest", "cubic"]
"""How an image is resampled: linear, nearest neighbour, or cubic splines through every voxel."""

LATTICE_TOLERANCE = 1e-3
"""Largest difference in voxels between lattices that count as equal. Headers hold
float32, which leaves errors of 1e-5 voxels; a thousandth of a voxel changes nothing visible."""


def inverse(transform: Affine) -> Affine:
    """(4, 4) inverse of a transform."""
    return np.asarray(np.linalg.inv(transform), np.float64)


def index_map(source: Affine, target: Affine, to_source: Affine | None = None) -> Affine:
    """(4, 4) matrix from a voxel index of the target lattice to one of the source lattice.

    Args:
        source: voxel -> world of the source.
        target: voxel -> world of the target.
        to_source: world of the target -> world of the source; the same world where None.
    """
    transform = np.eye(4) if to_source is None else to_source
    return np.asarray(np.linalg.solve(source, transform @ target))


def lattice_steps(
    matrix: Affine, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Decompose an index map into permutation, flips and shifts by whole voxels, if it is one.

    Args:
        matrix: (4, 4), target index -> source index.
        shape: of the target; the tolerance holds over its whole extent.

    Returns:
        For each target axis its source axis, its direction (+1 or -1), and for each *source* axis
        the index at target index 0; None where interpolation is needed.
    """
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    whole = np.rint(linear)
    if not (
        (np.abs(whole).sum(0) == 1).all()
        and (np.abs(whole).sum(1) == 1).all()
        and np.abs((linear - whole) @ np.diag(shape)).sum(1).max() < LATTICE_TOLERANCE
        and np.abs(shift - np.rint(shift)).max() < LATTICE_TOLERANCE
    ):
        return None
    axes = tuple(int(axis) for axis in np.abs(whole).argmax(0))
    signs = tuple(int(whole[axis, column]) for column, axis in enumerate(axes))
    return axes, signs, tuple(int(value) for value in np.rint(shift))


def resample_array(
    data: NDArray[np.generic],
    source: Affine,
    target: Grid,
    kind: Kind = "image",
    to_source: Affine | None = None,
    mask_rule: MaskRule = "linear_threshold",
    image_rule: ImageRule = "linear",
) -> NDArray[np.generic]:
    """Resample an array to another grid; 0 outside its field of view.

    Where the lattices coincide up to axis order, flips and whole voxels, values are copied bit for
    bit. Otherwise they are interpolated once, in float32; the field of view ends half a voxel
    beyond the outermost centres, so a thick slice keeps its full thickness. No low-pass filter is
    applied when the target is coarser (as in the systems we reproduce).

    Args:
        data: (X, Y, Z).
        source: voxel -> world of ``data``.
        target: where the result lies.
        kind: images follow ``image_rule``, masks ``mask_rule``; probabilities are linear.
        to_source: world of the target -> world of the source; the same world where None.
        mask_rule: see ``MaskRule``.
        image_rule: see ``ImageRule``.

    Returns:
        (X, Y, Z) of the target: the type of ``data`` where copied, else float32; bool for a mask
        that was interpolated and cut.
    """
    matrix = index_map(source, target.affine, to_source)
    steps = lattice_steps(matrix, target.shape)
    if steps is not None:
        return _copy(data, target.shape, *steps)
    hard = kind == "mask" and mask_rule != "soft"
    rule: ImageRule = image_rule if kind == "image" else "linear"
    if kind == "mask" and mask_rule == "nearest":
        rule = "nearest"
    values = _interpolate(data, target.shape, matrix, rule)
    # counted to the even side of float rounding: an exact half must not depend on the machine
    return values >= 0.5 - 1e-5 if hard else values


def resample_volume(
    volume: Volume,
    target: Grid,
    to_source: Affine | None = None,
    mask_rule: MaskRule = "linear_threshold",
    image_rule: ImageRule = "linear",
) -> Volume:
    """Resample a volume; with ``mask_rule="soft"`` an interpolated mask becomes a probability."""
    data = resample_array(
        volume.data, volume.affine, target, volume.kind, to_source, mask_rule, image_rule
    )
    soft = volume.kind == "mask" and mask_rule == "soft" and data.dtype == np.float32
    return Volume(data, target.affine, "probability" if soft else volume.kind)


def _copy(
    data: NDArray[np.generic],
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    signs: tuple[int, ...],
    start: tuple[int, ...],
) -> NDArray[np.generic]:
    result = np.zeros(shape, data.dtype)
    into: list[slice] = []
    outof: list[slice] = [slice(None)] * 3
    for axis, (origin, sign) in enumerate(zip(axes, signs, strict=True)):
        first, length = start[origin], data.shape[origin]
        # target index i reads source index first + sign * i; keep those inside the source
        low, high = (-first, length - first) if sign > 0 else (first - length + 1, first + 1)
        low, high = max(low, 0), min(high, shape[axis])
        if high <= low:
            return result
        into.append(slice(low, high))
        begin, end = first + sign * low, first + sign * (high - 1)
        outof[origin] = slice(begin, end + 1) if sign > 0 else slice(end, begin + 1)
    block = data[tuple(outof)].transpose(axes)
    result[tuple(into)] = block[tuple(slice(None, None, sign) for sign in signs)]
    return result


def _interpolate(
    data: NDArray[np.generic], shape: tuple[int, ...], matrix: Affine, rule: ImageRule
) -> NDArray[np.float32]:
    import SimpleITK as sitk  # noqa: N813 - its documented short name; heavy, so imported late

    image = sitk.GetImageFromArray(np.ascontiguousarray(data, dtype=np.float32))
    transform = sitk.AffineTransform(
        3
    )  # its axes run Z, Y, X: the array is handed over without a copy
    transform.SetMatrix(matrix[:3, :3][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3][::-1].tolist())
    resampled = sitk.Resample(
        image,
        [int(size) for size in shape[::-1]],
        transform,
        {
            "linear": sitk.sitkLinear,
            "nearest": sitk.sitkNearestNeighbor,
            "cubic": sitk.sitkBSpline,
        }[rule],
        [0.0] * 3,
        [1.0] * 3,
        np.eye(3).ravel().tolist(),
        0.0,
        sitk.sitkFloat32,
    )
    return np.asarray(sitk.GetArrayFromImage(resampled), np.float32)


def covering_grid(
    grid: Grid, spacing_mm: tuple[float, float, float], to_world: Affine | None = None
) -> Grid:
    """The axis-aligned RAS+ grid of a given spacing whose voxels cover a field of view.

    Args:
        grid: what to cover.
        spacing_mm: along right, anterior and superior.
        to_world: world of ``grid`` -> world of the new grid; the same where None.
    """
    edges = np.array(np.meshgrid(*((-0.5, size - 0.5) for size in grid.shape))).reshape(3, -1).T
    transform = grid.affine if to_world is None else to_world @ grid.affine
    world = edges @ transform[:3, :3].T + transform[:3, 3]
    spacing = np.array(spacing_mm, float)
    low, high = world.min(0), world.max(0)
    x, y, z = (max(1, int(size)) for size in np.ceil((high - low) / spacing - 1e-3))
    centre = (low + high) / 2
    origin = centre - spacing * (np.array([x, y, z]) - 1) / 2
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Grid((x, y, z), affine)
