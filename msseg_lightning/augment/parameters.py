"""Drawing of the augmentation parameters of one patch."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.augment.recipe import (
    AXES,
    Affine,
    BiasField,
    Blur,
    Elastic,
    Gamma,
    Noise,
    OneOf,
    Operation,
    Recipe,
    Scale,
    Sharpen,
    Shift,
    ThickSlices,
)
from msseg_lightning.core.volume import Grid

Matrix = NDArray[np.float64]
NODE_STEP = 8
"""Voxels between nodes of a displacement field; engines interpolate linearly between nodes."""


@dataclasses.dataclass(frozen=True)
class Intensity:
    """Parameters of the intensity operations on one visit; a neutral value disables each.

    Args:
        thick_axis: array axis of thick slices.
        thick_voxels: their thickness; 1 is off.
        thick_interpolate: whether planes are dropped and interpolated.
        blur_sigma: (3,) voxels, array axes.
        sharpen_amount: strength.
        sharpen_sigma: voxels.
        noise_sd: standard deviation.
        noise_seed: 32 bits; noise is a function of this, the image's place and the voxel.
        gamma: exponent.
        bias: (4, 4, 4) Legendre coefficients in array axes, or None.
        scale: factor.
        shift: offset.
    """

    thick_axis: int = 0
    thick_voxels: int = 1
    thick_interpolate: bool = True
    blur_sigma: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sharpen_amount: float = 0.0
    sharpen_sigma: float = 0.0
    noise_sd: float = 0.0
    noise_seed: int = 0
    gamma: float = 1.0
    bias: Matrix | None = None
    scale: float = 1.0
    shift: float = 0.0


@dataclasses.dataclass(frozen=True)
class Parameters:
    """All augmentation parameters of one patch.

    Args:
        matrix: (3, 3), offset from the patch's centre in patch voxels -> offset from the centre in
            voxels of the volume.
        translation: (3,) voxels of the volume, added to the centre.
        nodes: (nx, ny, nz, 3) float32 displacement in voxels of the volume, at every
            ``NODE_STEP``-th patch voxel, or None.
        visits: visit -> intensity operations.
    """

    matrix: Matrix
    translation: Matrix
    nodes: NDArray[np.float32] | None
    visits: dict[str, Intensity]

    def origin(self, centre: Matrix, size: Sequence[int]) -> Matrix:
        """(3,) position in the volume of the patch's first voxel."""
        half = (np.asarray(size) - 1) / 2
        return np.asarray(centre + self.translation - self.matrix @ half)


def visit_of(image: str) -> str:
    """``baseline_flair`` belongs to visit ``baseline``."""
    return image.partition("_")[0]


def anatomical_axes(grid: Grid) -> tuple[int, int, int]:
    """Array axes that run left-right, front-back and up-down (0, 1, 2 for RAS+ arrays)."""
    direction = np.abs(grid.affine[:3, :3] / np.asarray(grid.spacing_mm))
    best, order = -1.0, (0, 1, 2)
    for candidate in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        fit = sum(direction[world, axis] for world, axis in enumerate(candidate))
        if fit > best + 1e-9:
            best, order = fit, candidate
    return order


def draw(
    recipe: Recipe,
    grid: Grid,
    size: Sequence[int],
    visits: Iterable[str],
    generator: np.random.Generator,
) -> Parameters:
    """Draw all parameters of one patch.

    Args:
        recipe: ranges and probabilities.
        grid: of the volume; gives spacing and anatomical axes.
        size: (3,) patch in voxels.
        visits: names of the visits present, see ``visit_of``.
        generator: keyed by what the patch is for; the result is a function of its state.
    """
    spacing = np.asarray(grid.spacing_mm)
    axes = anatomical_axes(grid)
    matrix, translation = np.eye(3), np.zeros(3)
    affine, elastic = recipe.affine, recipe.elastic
    if recipe.elastic_share is not None:
        if generator.random() < recipe.elastic_share:
            affine = None
        else:
            elastic = None
    if affine is not None and generator.random() < affine.probability:
        in_mm, shift_mm = _affine(affine, axes, generator)
        # offsets are measured in voxels, angles only make sense in millimetres
        matrix = in_mm * spacing[None, :] / spacing[:, None]
        translation = shift_mm / spacing
    if recipe.permute is not None and generator.random() < recipe.permute.probability:
        matrix = matrix[:, generator.permutation(3)]
    if recipe.flip is not None:
        signs = np.ones(3)
        for axis in recipe.flip.axes:
            if generator.random() < recipe.flip.probability:
                signs[axes[AXES.index(axis)]] = -1
        matrix = matrix * signs[None, :]
    nodes = None
    if elastic is not None and generator.random() < elastic.probability:
        nodes = _displacement(elastic, spacing, size, generator)
    return Parameters(matrix, translation, nodes, _intensities(recipe, axes, visits, generator))


def _affine(
    recipe: Affine, axes: tuple[int, int, int], generator: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """(3, 3) matrix and (3,) shift, both in mm along array axes."""
    matrix = np.eye(3)
    if generator.random() < recipe.rotation_probability:
        for world, limit in enumerate(recipe.rotation_degrees):
            angle = math.radians(generator.uniform(-limit, limit))
            first, second = (axis for axis in range(3) if axis != axes[world])
            turn = np.eye(3)
            turn[first, first] = turn[second, second] = math.cos(angle)
            turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
    if generator.random() < recipe.scale_probability:
        factors = generator.uniform(*recipe.scale, 1 if recipe.same_scale else 3)
        matrix = matrix * factors[None, :]
    always = (
        recipe.shear_probability >= 1
    )  # takes no draw: batches of other recipes stay as they are
    if recipe.shear and (always or generator.random() < recipe.shear_probability):
        shear = np.eye(3)
        shear[~np.eye(3, dtype=bool)] = generator.uniform(-recipe.shear, recipe.shear, 6)
        matrix = matrix @ shear
    limits = np.empty(3)
    limits[list(axes)] = recipe.translation_mm  # from anatomical to array axes
    return matrix, generator.uniform(-limits, limits)


def _displacement(
    recipe: Elastic,
    spacing: NDArray[np.float64],
    size: Sequence[int],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Displacement at the nodes: cubic B-spline of normally distributed control points."""
    weights = []
    for length, millimetres in zip(size, spacing, strict=True):
        count = -(-(length - 1) // NODE_STEP) + 1
        place = np.arange(count) * NODE_STEP * millimetres / recipe.spacing_mm
        controls = np.arange(-1, math.floor(place[-1]) + 3)
        weights.append(_cubic_spline(place[:, None] - controls[None, :]))
    sd = generator.uniform(*recipe.displacement_mm)
    control = generator.normal(0, sd, (*(matrix.shape[1] for matrix in weights), 3))
    nodes = np.einsum("abcd,xa,yb,zc->xyzd", control, *weights, optimize=True)
    return np.ascontiguousarray(nodes / spacing, np.float32)


def _cubic_spline(distance: Matrix) -> Matrix:
    """Cardinal cubic B-spline."""
    t = np.abs(distance)
    near = 2 / 3 - t**2 + t**3 / 2
    return np.where(t < 1, near, np.where(t < 2, np.clip(2 - t, 0, None) ** 3 / 6, 0))


def _intensities(
    recipe: Recipe,
    axes: tuple[int, int, int],
    visits: Iterable[str],
    generator: np.random.Generator,
) -> dict[str, Intensity]:
    names = sorted(set(visits))
    found: dict[str, dict[str, Any]] = {
        name: {"noise_seed": int(generator.integers(1 << 32))} for name in names
    }

    def apply(operation: Any, values: Callable[[], dict[str, Any]]) -> None:
        if operation.per_visit:
            for name in names:
                if generator.random() < operation.probability:
                    found[name].update(values())
        elif generator.random() < operation.probability:
            shared = values()
            for name in names:
                found[name].update(shared)

    for operation in (
        recipe.thick_slices,
        recipe.blur,
        recipe.sharpen,
        recipe.noise,
        recipe.gamma,
        recipe.bias_field,
        recipe.scale,
        recipe.shift,
    ):
        if operation is not None:
            apply(operation, functools.partial(_values, operation, axes, generator))
    if recipe.one_of is not None:
        apply(recipe.one_of, functools.partial(_chosen, recipe.one_of, axes, generator))
    return {name: Intensity(**values) for name, values in found.items()}


def _chosen(group: OneOf, axes: tuple[int, int, int], generator: np.random.Generator) -> Any:
    """Parameters of the operation that was chosen from a group."""
    operations = list(group.operations.values())
    index = int(generator.choice(len(operations), p=group.shares()))
    return _values(operations[index], axes, generator)


def _values(
    operation: Operation, axes: tuple[int, int, int], generator: np.random.Generator
) -> dict[str, Any]:
    """Parameters of one operation, by field of ``Intensity``."""
    match operation:
        case ThickSlices():
            chosen = operation.axes[int(generator.integers(len(operation.axes)))]
            low, high = operation.voxels
            return {
                "thick_axis": axes[AXES.index(chosen)],
                "thick_voxels": int(generator.integers(low, high + 1)),
                "thick_interpolate": operation.interpolate,
            }
        case Blur():
            sigma = generator.uniform(*operation.sigma_voxels, 1 if operation.same_axes else 3)
            x, y, z = np.broadcast_to(sigma, 3).tolist()
            return {"blur_sigma": (x, y, z)}
        case Sharpen():
            return {
                "sharpen_amount": generator.uniform(*operation.amount),
                "sharpen_sigma": generator.uniform(*operation.sigma_voxels),
            }
        case Noise():
            return {"noise_sd": float(generator.uniform(*operation.sd))}
        case Gamma():
            return {"gamma": float(generator.uniform(*operation.gamma))}
        case BiasField():
            i, j, k = np.indices((4, 4, 4))
            inside = (i + j + k) <= operation.degree
            return {"bias": generator.uniform(*operation.coefficient, (4, 4, 4)) * inside}
        case Scale():
            return {"scale": 1 + float(generator.uniform(*operation.change))}
        case Shift():
            return {"shift": float(generator.uniform(*operation.offset))}
