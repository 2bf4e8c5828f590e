"""Dense displacements that raise the neighbourhood correlation of two images.

The metric of ANTs as ITK computes it, and ITK's gradient descent. ITK walks over the whole grid
and interpolates a whole slab of the neighbourhood at every voxel. Here the baseline is interpolated
once per voxel of the mask, and the sums over neighbourhoods are filters along each axis within the
box of the mask. Displacements are those of ITK to float rounding.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

Array = NDArray[np.float64]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

FLAT = 1e-12
"""Share of its squares below which the spread of a neighbourhood is rounding: it is uniform."""

KERNEL_ERROR = 1e-3
"""What ITK cuts off a Gaussian that smooths displacements."""


def correlation_descent(
    still: Image,
    moved: Image,
    inside: Mask,
    field: Array,
    radius: int,
    iterations: int,
    step: float,
    update_sigma: float,
) -> Array:
    """Improve a field by gradient descent; all lengths are in voxels.

    Args:
        still: (X, Y, Z) image that is looked for.
        moved: (X, Y, Z) image that is sampled at the displaced voxels.
        inside: (X, Y, Z) mask of ``still`` where the metric is taken; not empty.
        field: (X, Y, Z, 3) displacements at the beginning.
        radius: of the neighbourhood.
        iterations: number of steps.
        step: the largest displacement of a step.
        update_sigma: standard deviation of the Gaussian that smooths a step.

    Returns:
        (X, Y, Z, 3) displacements.

    Reference:
        Avants et al. 2008, https://doi.org/10.1016/j.media.2007.06.004
    """
    kernel = gaussian_kernel(update_sigma**2) if update_sigma else np.ones(1)
    slopes = slopes_of(moved)
    core = box_of(inside, 0)
    wide = box_of(inside, len(kernel) // 2)  # a step is 0 beyond
    within = tuple(
        slice(one.start - other.start, one.stop - other.start)
        for one, other in zip(core, wide, strict=True)
    )
    found = field.copy()
    for _ in range(iterations):
        update = np.zeros((*found[wide].shape[:3], 3))
        update[within] = gradient(still, moved, slopes, inside, found, radius, core)
        if update_sigma:
            update = smoothed(update, kernel)
            at_border(update, wide, still.shape)
        longest = np.sqrt((update**2).sum(-1).max())
        if longest == 0:
            break
        found[wide] += step / longest * update
    return found


def box_of(mask: Mask, margin: int) -> tuple[slice, slice, slice]:
    """The box of a mask with a margin, within the grid."""
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    x, y, z = (
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(found, mask.shape, strict=True)
    )
    return x, y, z


def slopes_of(image: Image) -> Image:
    """(X, Y, Z, 3) derivatives of an image smoothed by one voxel, as ITK's metrics take them."""
    import SimpleITK as sitk  # noqa: N813

    found = sitk.GradientRecursiveGaussian(sitk.GetImageFromArray(image.transpose(2, 1, 0)), 1.0)
    return np.ascontiguousarray(sitk.GetArrayFromImage(found).transpose(2, 1, 0, 3))


def gaussian_kernel(variance: float) -> Array:
    """Weights of ITK's discrete Gaussian: modified Bessel functions, to ``KERNEL_ERROR``."""
    weights = [float(special.ive(0, variance)), float(special.ive(1, variance))]
    total = weights[0] + 2 * weights[1]
    while total < 1 - KERNEL_ERROR:
        weights.append(float(special.ive(len(weights), variance)))
        total += 2 * weights[-1]
    half = np.array(weights) / total
    return np.concatenate([half[:0:-1], half])


def smoothed(update: Array, kernel: Array) -> Array:
    """A step smoothed along each axis."""
    for axis in range(3):
        update = ndimage.correlate1d(update, kernel, axis=axis, mode="nearest")
    return update


def at_border(update: Array, box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> None:
    """Hold the outermost voxels of the grid, as ITK does where it smooths."""
    for axis, (part, size) in enumerate(zip(box, shape, strict=True)):
        whole: list[slice | int] = [slice(None)] * 3
        for end, touches in ((0, part.start == 0), (-1, part.stop == size)):
            if touches:
                whole[axis] = end
                update[tuple(whole)] = 0


def gradient(
    still: Image,
    moved: Image,
    slopes: Image,
    inside: Mask,
    field: Array,
    radius: int,
    box: tuple[slice, slice, slice],
) -> Array:
    """(X, Y, Z, 3) of the box: the derivative of the metric by the displacement of each voxel."""
    corner = np.array([part.start for part in box])
    valid = np.ascontiguousarray(inside[box])
    there, slope = sampled(moved, slopes, valid, np.ascontiguousarray(field[box]), corner)
    here = np.where(valid, still[box], 0).astype(np.float64)
    count = window_sums(valid.astype(np.float64), radius)[valid]
    first, second = here[valid], there[valid]
    sum_first, sum_second, squares_first, squares_second, products = (
        window_sums(each, radius)[valid]
        for each in (here, there, here * here, there * there, here * there)
    )
    first -= sum_first / count
    second -= sum_second / count
    spread_first = squares_first - sum_first**2 / count
    spread_second = squares_second - sum_second**2 / count
    common = products - sum_first * sum_second / count
    varied = (spread_first > FLAT * squares_first) & (spread_second > FLAT * squares_second)
    spread_first[~varied] = spread_second[~varied] = 1
    force = 2 * common / (spread_first * spread_second) * (first - common / spread_second * second)
    force[~varied] = 0
    found = np.zeros((*valid.shape, 3))
    found[valid] = force[:, None] * slope[valid]
    return found


def window_sums(values: Array, radius: int) -> Array:
    """Sums over the (2 radius + 1)^3 voxels around each; there is nothing beyond the border.

    Each sum is added up anew: a running sum would leave its rounding where all values are 0.
    """
    for axis in range(3):
        values = ndimage.correlate1d(values, np.ones(2 * radius + 1), axis=axis, mode="constant")
    return values


@numba.njit(cache=True, nogil=True)
def sampled(
    moved: Image, slopes: Image, valid: Mask, field: Array, corner: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Linear interpolation at displaced voxels.

    Args:
        moved: (X, Y, Z).
        slopes: (X, Y, Z, 3).
        valid: (A, B, C) voxels of a box; those that leave the field of view are taken out.
        field: (A, B, C, 3) displacements.
        corner: the box's first voxel.

    Returns:
        (A, B, C) values and (A, B, C, 3) slopes, 0 where not valid.
    """
    width, height, depth = moved.shape
    values = np.zeros(valid.shape)
    found = np.zeros((valid.shape[0], valid.shape[1], valid.shape[2], 3))
    for a in range(valid.shape[0]):
        for b in range(valid.shape[1]):
            for c in range(valid.shape[2]):
                if not valid[a, b, c]:
                    continue
                x = corner[0] + a + field[a, b, c, 0]
                y = corner[1] + b + field[a, b, c, 1]
                z = corner[2] + c + field[a, b, c, 2]
                if not (
                    -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5 and -0.5 <= z < depth - 0.5
                ):
                    valid[a, b, c] = False
                    continue
                x = min(max(x, 0.0), width - 1.0)
                y = min(max(y, 0.0), height - 1.0)
                z = min(max(z, 0.0), depth - 1.0)
                i, j, k = min(int(x), width - 2), min(int(y), height - 2), min(int(z), depth - 2)
                for corner_x in range(2):
                    u = x - i if corner_x else 1 - x + i
                    for corner_y in range(2):
                        uv = u * (y - j if corner_y else 1 - y + j)
                        for corner_z in range(2):
                            weight = uv * (z - k if corner_z else 1 - z + k)
                            p, q, r = i + corner_x, j + corner_y, k + corner_z
                            values[a, b, c] += weight * moved[p, q, r]
                            for axis in range(3):
                                found[a, b, c, axis] += weight * slopes[p, q, r, axis]
    return values, found
