"""Fast rigid registration of two scans of one sequence by locally normalised intensities.

Mutual information is for scans whose contrasts have nothing in common. Two FLAIR scans of one head
look alike, so their difference is minimised directly, by Gauss-Newton on six parameters, which
needs fewer steps than gradient descent on a histogram.

Three things make the difference robust. Both scans are normalised by their local mean and spread,
which takes away coil, gain and contrast. Residuals are weighted by Tukey's function, so new
lesions and moving tissue have little influence. Only voxels with strong edges are compared,
coarse to fine.
"""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.volume import Affine, Volume

Points = NDArray[np.float64]

WINDOW_MM = 24.0
"""Edge of the cube of local normalisation: wider than a gyrus, narrower than a coil's field."""
FAILURE_LOSS = 0.25
"""Loss above which a registration has failed or the scans are not of one head and sequence. At
2 mm the three real pairs of open_ms come to 0.08, 0.12 and 0.17, simulated ones to 0.04, scans of
two patients to 0.31 and more, a scan and its negative to 0.37."""
TURN_RADIUS_MM = 90.0
"""Distance from the centre at which a rotation is converted to mm."""


@dataclasses.dataclass(frozen=True)
class Level:
    """One resolution of a registration.

    Args:
        spacing_mm: voxels are averaged to about this edge.
        points: how many voxels, those with the strongest edges, are compared.
        cut: residual, in local standard deviations, beyond which a voxel does not count.
        steps: at most.
    """

    spacing_mm: float
    points: int
    cut: float
    steps: int = 30


LEVELS = (Level(8.0, 10_000, 4.0), Level(4.0, 30_000, 3.0), Level(2.0, 60_000, 2.0))


def fast_rigid(
    fixed: Volume,
    moving: Volume,
    guesses: list[Affine],
    inside: Volume | None = None,
    levels: tuple[Level, ...] = LEVELS,
) -> tuple[Affine, float]:
    """Find the rigid transform that minimises the difference of two scans of one sequence.

    Args:
        fixed: image whose world the result starts from.
        moving: the other, of the same sequence; grids may differ in everything.
        guesses: (4, 4) rigid each, fixed world -> moving world; the best at the coarsest level
            goes on. Within some 20 mm and 15 degrees.
        inside: mask of ``fixed``; its rim is left out, since the edge of a mask is no anatomy.
        levels: coarse to fine.

    Returns:
        (4, 4), fixed world -> moving world; and the remaining loss of the edges, from 0 to 1 (see
        ``FAILURE_LOSS``).

    Reference:
        Inverse compositional Gauss-Newton: Baker and Matthews 2004,
        https://doi.org/10.1023/B:VISI.0000011205.11775.fd
    """
    centre = fixed.grid.corners_mm().mean(0)
    transforms, loss = guesses, 1.0
    for level in levels:
        places, values, slopes = edge_voxels(fixed, inside, level)
        image, to_index = normalised(moving, level.spacing_mm)
        found = [
            gauss_newton(
                np.ascontiguousarray(image),
                to_index,
                places,
                values,
                slopes,
                transform,
                centre,
                level,
            )
            for transform in transforms
        ]
        best, loss = min(found, key=lambda pair: pair[1])
        transforms = [best]
    return transforms[0], loss


def edge_voxels(
    fixed: Volume, inside: Volume | None, level: Level
) -> tuple[Points, Points, Points]:
    """Voxels that are compared: world positions (N, 3), values (N,), gradients per mm (N, 3)."""
    image, to_index = normalised(fixed, level.spacing_mm)
    to_world = np.linalg.inv(to_index)
    gradient = np.stack([*np.gradient(image)], -1) @ to_index[:3, :3]  # chain rule: index -> mm
    strength = (gradient**2).sum(-1)
    if inside is not None:
        part, _ = block_means(inside.data, inside.affine, level.spacing_mm)
        strength[~ndimage.binary_erosion(part > 0.99)] = 0
    for axis in range(3):  # differences at the border are one-sided
        strength[tuple(slice(None) if other != axis else [0, -1] for other in range(3))] = 0
    flat = strength.ravel()
    count = min(level.points, int(np.count_nonzero(flat)))
    rest = flat.size - count
    chosen = np.sort(np.argpartition(flat, min(rest, flat.size - 1))[rest:])
    index = np.stack(np.unravel_index(chosen, image.shape), 1)
    places = index @ to_world[:3, :3].T + to_world[:3, 3]
    values = image.ravel()[chosen].astype(np.float64)
    return places, values, gradient.reshape(-1, 3)[chosen].astype(np.float64)


def normalised(volume: Volume, spacing_mm: float) -> tuple[NDArray[np.float32], Affine]:
    """Locally standardised image, 0 in air, and its transform from world to index."""
    image, affine = block_means(volume.data, volume.affine, spacing_mm)
    edge = np.sqrt((affine[:3, :3] ** 2).sum(0))
    window = [max(3, 2 * round(WINDOW_MM / size / 2) + 1) for size in edge]
    mean = ndimage.uniform_filter(image, window)
    square = ndimage.uniform_filter(image * image, window)
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    # where little happens there is nothing to see: noise must not be blown up
    floor = 0.25 * float(np.sqrt(np.mean(spread**2))) + np.finfo(np.float32).tiny
    even = (image - mean) / np.maximum(spread, floor)
    return even.astype(np.float32), np.asarray(np.linalg.inv(affine), np.float64)


def block_means(
    data: NDArray[np.generic], affine: Affine, spacing_mm: float
) -> tuple[NDArray[np.float32], Affine]:
    """Means over blocks about ``spacing_mm`` wide, and their affine."""
    edge = np.sqrt((affine[:3, :3] ** 2).sum(0))
    block = [
        max(1, min(round(spacing_mm / e), n // 4)) for e, n in zip(edge, data.shape, strict=True)
    ]
    x, y, z = (n // b for n, b in zip(data.shape, block, strict=True))
    kept = np.asarray(data)[: x * block[0], : y * block[1], : z * block[2]]
    # one axis at a time, the contiguous one last: several times faster than all at once
    part = kept.reshape(x, block[0], y * block[1], z * block[2]).mean(1, dtype=np.float32)
    part = part.reshape(x, y, block[1], z * block[2]).mean(2)
    part = part.reshape(x, y, z, block[2]).mean(3)
    placed = affine.copy()
    placed[:3, 3] += affine[:3, :3] @ ((np.array(block) - 1) / 2)
    placed[:3, :3] = affine[:3, :3] * block
    return part, placed


def gauss_newton(
    image: NDArray[np.float32],
    to_index: Affine,
    places: Points,
    values: Points,
    slopes: Points,
    transform: Affine,
    centre: Points,
    level: Level,
) -> tuple[Affine, float]:
    """Gauss-Newton from one guess: the transform, and its mean loss as a share of the largest."""
    relative = places - centre
    best, best_cost = transform, 1.0
    for _ in range(level.steps):
        matrix = to_index @ transform
        hessian, force, cost, count = normal_equations(
            image, places, relative, values, slopes, matrix, level.cut
        )
        if count <= len(places) / 4:  # they hardly overlap, or there are no edges
            break
        cost /= count * level.cut**2 / 3
        if cost < best_cost:
            best, best_cost = transform, cost
        elif cost > 1.02 * best_cost:  # it wanders: the best so far is the answer
            break
        step = -np.linalg.solve(hessian + 1e-6 * np.trace(hessian) * np.eye(6), force)
        transform = transform @ about_centre(rigid_matrix(step), centre)
        if (
            np.abs(step[:3]).max() * TURN_RADIUS_MM + np.abs(step[3:]).max()
            < 0.002 * level.spacing_mm
        ):
            break
    return best, best_cost


def rigid_matrix(step: Points) -> Affine:
    """(4, 4) rigid matrix of a rotation vector in radians and a shift in mm."""
    angle = float(np.linalg.norm(step[:3]))
    x, y, z = step[:3] / max(angle, 1e-30)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    moved = np.eye(4)
    moved[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    moved[:3, 3] = step[3:]
    return moved


def about_centre(transform: Affine, centre: Points) -> Affine:
    """The same motion with its rotation about a point."""
    moved = transform.copy()
    moved[:3, 3] += centre - transform[:3, :3] @ centre
    return moved


@numba.njit(cache=True, nogil=True, fastmath=True)
def normal_equations(
    image: NDArray[np.float32],
    places: Points,
    relative: Points,
    values: Points,
    slopes: Points,
    matrix: Affine,
    cut: float,
) -> tuple[Points, Points, float, int]:
    """J'WJ (6, 6), J'Wr (6,), summed Tukey loss and how many voxels overlap."""
    width, height, depth = image.shape
    hessian, force = np.zeros((6, 6)), np.zeros(6)
    cost, count = 0.0, 0
    jacobian = np.empty(6)
    for point in range(places.shape[0]):
        a, b, c = places[point]
        x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c + matrix[0, 3]
        y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c + matrix[1, 3]
        z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c + matrix[2, 3]
        if not (0 <= x < width - 1 and 0 <= y < height - 1 and 0 <= z < depth - 1):
            continue
        i, j, k = int(x), int(y), int(z)
        u, v, w = x - i, y - j, z - k
        front = (1 - v) * ((1 - w) * image[i, j, k] + w * image[i, j, k + 1]) + v * (
            (1 - w) * image[i, j + 1, k] + w * image[i, j + 1, k + 1]
        )
        back = (1 - v) * ((1 - w) * image[i + 1, j, k] + w * image[i + 1, j, k + 1]) + v * (
            (1 - w) * image[i + 1, j + 1, k] + w * image[i + 1, j + 1, k + 1]
        )
        residual = (1 - u) * front + u * back - values[point]
        count += 1
        ratio = residual / cut
        if ratio * ratio >= 1:
            cost += cut * cut / 3  # Tukey's loss is flat there
            continue
        weight = (1 - ratio * ratio) ** 2
        cost += cut * cut / 3 * (1 - (1 - ratio * ratio) ** 3)
        p, q, r = relative[point]
        gx, gy, gz = slopes[point]
        jacobian[0], jacobian[1], jacobian[2] = q * gz - r * gy, r * gx - p * gz, p * gy - q * gx
        jacobian[3], jacobian[4], jacobian[5] = gx, gy, gz
        for row in range(6):
            force[row] += weight * jacobian[row] * residual
            for column in range(row + 1):
                hessian[row, column] += weight * jacobian[row] * jacobian[column]
    for row in range(6):
        for column in range(row):
            hessian[column, row] = hessian[row, column]
    return hessian, force, cost, count
