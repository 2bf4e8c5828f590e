# ruff: noqa: ANN001, ANN201, ANN202
"""Smooth one-to-one deformations: a stationary velocity field on a coarse lattice."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numba
import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.volume import Affine

LATTICE_MM = 4.0
LATTICE_ORIGIN_MM = np.array([-108.0, -148.0, -112.0])
LATTICE_SHAPE = (55, 66, 58)

Field = NDArray[np.float32]
"""(X, Y, Z, 3) mm on the lattice: velocities or displacements."""


@dataclasses.dataclass(frozen=True)
class Warp:
    """Deformation from the patient's head to MNI space.

    Args:
        displacement: added to a point of the head before ``to_template``.
        to_template: (4, 4) affine, head -> MNI.
    """

    displacement: Field
    to_template: Affine

    def apply(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) head -> (n, 3) MNI."""
        moved = points_mm + interpolate(self.displacement, points_mm)
        return np.asarray(moved @ self.to_template[:3, :3].T + self.to_template[:3, 3])

    def invert(self, points_mm: NDArray[np.float64], rounds: int = 30) -> NDArray[np.float64]:
        """(n, 3) MNI -> (n, 3) head, by fixed-point iteration."""
        back = np.linalg.inv(self.to_template)
        target = points_mm @ back[:3, :3].T + back[:3, 3]
        found = target.copy()
        for _ in range(rounds):
            found = 0.5 * found + 0.5 * (target - interpolate(self.displacement, found))
        return np.asarray(found)


@numba.njit(cache=True, nogil=True)
def trilinear(volume, channel, x, y, z):
    """Trilinear value of one channel at a voxel position; the border's value outside. Compiled."""
    nx, ny, nz = volume.shape[0], volume.shape[1], volume.shape[2]
    x = min(max(x, 0.0), nx - 1.001)
    y = min(max(y, 0.0), ny - 1.001)
    z = min(max(z, 0.0), nz - 1.001)
    i, j, k = int(x), int(y), int(z)
    fx, fy, fz = x - i, y - j, z - k
    low = (volume[i, j, k, channel] * (1 - fx) + volume[i + 1, j, k, channel] * fx) * (1 - fy) + (
        volume[i, j + 1, k, channel] * (1 - fx) + volume[i + 1, j + 1, k, channel] * fx
    ) * fy
    k += 1
    high = (volume[i, j, k, channel] * (1 - fx) + volume[i + 1, j, k, channel] * fx) * (1 - fy) + (
        volume[i, j + 1, k, channel] * (1 - fx) + volume[i + 1, j + 1, k, channel] * fx
    ) * fy
    return low * (1 - fz) + high * fz


@numba.njit(cache=True, nogil=True)
def _interpolate(field, index):
    found = np.empty(index.shape, np.float64)
    for n in range(index.shape[0]):
        for axis in range(3):
            found[n, axis] = trilinear(field, axis, index[n, 0], index[n, 1], index[n, 2])
    return found


def interpolate(field: Field, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) trilinear values of a field; the border's value outside."""
    return np.asarray(_interpolate(field, (points_mm - LATTICE_ORIGIN_MM) / LATTICE_MM))


@functools.cache
def lattice_points() -> NDArray[np.float64]:
    """(X, Y, Z, 3) positions of the lattice in mm."""
    axes = [
        LATTICE_ORIGIN_MM[axis] + LATTICE_MM * np.arange(LATTICE_SHAPE[axis]) for axis in range(3)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float64)


def random_velocity(generator: np.random.Generator, smooth_mm: float, rms_mm: float) -> Field:
    """A Gaussian random field with the given smoothness and root mean square per component."""
    from scipy import ndimage

    noise = generator.standard_normal((*LATTICE_SHAPE, 3), dtype=np.float32)
    sigma = smooth_mm / LATTICE_MM
    for axis in range(3):
        noise[..., axis] = ndimage.gaussian_filter(noise[..., axis], sigma, mode="wrap")
    return np.asarray(noise * (rms_mm / noise.std()), np.float32)


def exponential(velocity: Field, squarings: int = 5) -> Field:
    """Displacement of the flow along a velocity for unit time, by scaling and squaring.

    Reference:
        Arsigny et al. 2006, A log-Euclidean framework for statistics on diffeomorphisms.
    """
    displacement = (velocity / 2**squarings).astype(np.float32)
    points = lattice_points().reshape(-1, 3)
    for _ in range(squarings):
        moved = points + displacement.reshape(-1, 3)
        step = interpolate(displacement, moved).reshape(displacement.shape)
        displacement = (displacement + step).astype(np.float32)
    return displacement


def smallest_jacobian(displacement: Field) -> float:
    """Smallest determinant of the gradient of ``x + u(x)``; above 0 where one-to-one."""
    gradient = np.empty((*LATTICE_SHAPE, 3, 3), np.float32)
    for row, column in itertools.product(range(3), range(3)):
        gradient[..., row, column] = np.gradient(displacement[..., row], LATTICE_MM, axis=column)
    return float(np.linalg.det(gradient + np.eye(3, dtype=np.float32)).min())


def rigid(rotation_deg: NDArray[np.float64], shift_mm: NDArray[np.float64]) -> Affine:
    """(4, 4) rotation about x, then y, then z through the origin, then a shift."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(rotation_deg)):
        turn = np.eye(4)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i] = np.sin(angle)
        turn[i, j] = -np.sin(angle)
        matrix = turn @ matrix
    matrix[:3, 3] = shift_mm
    return matrix
