"""Reordering of axes, and resampling through a known transform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.volume import Affine, Grid, Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK's axes point to left and posterior, those of NIfTI to right and anterior."""


def axis_order(affine: Affine) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which world axis each array axis runs along, and in which direction (+1 or -1).

    Assigned greedily from the largest cosine, so that oblique scans get each axis once.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    world = np.full(3, -1, np.intp)
    sign = np.ones(3)
    weight = np.abs(cosines)
    for _ in range(3):
        row, column = np.unravel_index(int(weight.argmax()), (3, 3))
        world[column], sign[column] = row, np.sign(cosines[row, column])
        weight[row, :] = -1
        weight[:, column] = -1
    return world, sign


def in_order_of(volume: Volume, reference: Affine) -> Volume:
    """The volume stored in the axis order of ``reference``.

    Only permutes and flips axes; no value changes.
    """
    world, sign = axis_order(volume.affine)
    target_world, target_sign = axis_order(reference)
    order = [int(np.flatnonzero(world == axis)[0]) for axis in target_world]
    flips = [sign[source] != want for source, want in zip(order, target_sign, strict=True)]
    if order == [0, 1, 2] and not any(flips):
        return volume
    data = volume.data.transpose(order)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        step[source, axis] = -1 if flip else 1
        if flip:
            step[source, 3] = volume.data.shape[source] - 1
            data = np.flip(data, axis)
    return Volume(data, volume.affine @ step, volume.kind)


def read_itk_affine(path: Path, name: str) -> Affine:
    """Read an ITK text transform as a RAS matrix.

    ITK states ``y = M (x - c) + t + c`` in LPS; the twelve parameters are M by rows, then t; the
    fixed parameters are c.

    Raises:
        MssegError: not such a file.
    """
    try:
        text = path.read_text(encoding="ascii")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        parameters = np.array(lines["Parameters"].split(), float)
        centre = np.array(lines["FixedParameters"].split(), float)
        if "Affine" not in lines["Transform"] and "MatrixOffset" not in lines["Transform"]:
            raise ValueError("not an affine transform")
        if parameters.shape != (12,) or centre.shape != (3,):
            raise ValueError("needs 12 parameters and 3 fixed ones")
        if not (np.isfinite(parameters).all() and np.isfinite(centre).all()):
            raise ValueError("a parameter is not finite")
    except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise MssegError(
            Problem(
                "transform.unreadable",
                "not an affine ITK transform",
                file=name,
                field="Parameters",
                found=type(error).__name__,
                expected="'Transform: MatrixOffsetTransformBase...' with 12 + 3 parameters",
                remedy="download the file again",
            )
        ) from None
    matrix = np.eye(4)
    matrix[:3, :3] = parameters[:9].reshape(3, 3)
    matrix[:3, 3] = parameters[9:] + centre - matrix[:3, :3] @ centre
    return np.asarray(LPS_TO_RAS @ matrix @ LPS_TO_RAS)


def resample_through(volume: Volume, grid: Grid, to_native: Affine, order: int = 3) -> Volume:
    """Resample an image to another grid through a transform, in one interpolation.

    Cubic B-splines keep small lesions sharper than linear mixing, which matters where slices are
    3-4 mm apart; ringing is cut back to the range of the source. Outside the source lies 0.

    Args:
        volume: the source image.
        grid: lattice wanted.
        to_native: (4, 4) world of ``grid`` -> world of ``volume``.
        order: of the splines; 1 is linear, four times as fast and good enough to check a pair.
    """
    from scipy import ndimage

    index = np.linalg.inv(volume.affine) @ to_native @ grid.affine
    source = np.asarray(volume.data, np.float32)
    # computed in C order on the transposed lattice, where the files' order is contiguous
    moved = ndimage.affine_transform(
        source.T,
        index[:3, :3][::-1, ::-1],
        index[:3, 3][::-1],
        output_shape=grid.shape[::-1],
        output=np.float32,
        order=order,
        mode="constant",
        cval=0.0,
    ).T
    np.clip(moved, min(float(source.min()), 0.0), float(source.max()), out=moved)
    return Volume(moved, grid.affine, volume.kind)
