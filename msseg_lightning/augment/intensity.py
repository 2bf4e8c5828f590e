"""Compiled intensity operations on one image of a patch, in place, in few passes.

All loops run over contiguous rows so that they vectorise; powers and exponentials are short
polynomials (relative error below 1e-5), noise is a hash of the voxel's index, so that every engine
and every thread makes the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[Any]

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "fastmath": True,
    "boundscheck": False,
    "error_model": "numpy",
}
_LN2 = np.float32(math.log(2))
_LOG2E = np.float32(1 / math.log(2))


def normal_table() -> NDArray[np.float32]:
    """(4096,) quantiles of a normal distribution of variance one half.

    The sum of two entries drawn independently has variance 1 and, up to 4 standard deviations,
    the tails of a normal distribution.
    """
    quantiles = ndtri((np.arange(4096) + 0.5) / 4096)
    return np.asarray(quantiles / np.sqrt(2 * np.mean(quantiles**2)), np.float32)


def gaussian(sigma: float) -> NDArray[np.float32]:
    """Half a kernel, centre first, cut at 3 sigma and normalised; ``[1]`` for sigma 0."""
    if sigma <= 0:
        return np.ones(1, np.float32)
    offset = np.arange(max(1, int(3 * sigma + 0.5)) + 1)
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.asarray(weight / (weight[0] + 2 * weight[1:].sum()), np.float32)


def slice_matrix(length: int, thickness: int, interpolate: bool) -> NDArray[np.float32]:
    """(length, length) operator that averages over ``thickness`` planes.

    With ``interpolate`` the planes are cut into slices from the first on, each is averaged, and
    values between slice centres are interpolated linearly; else it is a moving average that is cut
    off at the ends.
    """
    matrix = np.zeros((length, length))
    if not interpolate:
        for plane in range(length):
            low = max(0, plane - (thickness - 1) // 2)
            high = min(length, plane + thickness // 2 + 1)
            matrix[plane, low:high] = 1 / (high - low)
        return np.asarray(matrix, np.float32)
    starts = np.arange(0, length, thickness)
    averages = np.zeros((len(starts), length))
    centres = []
    for number, start in enumerate(starts.tolist()):
        end = min(length, start + thickness)
        averages[number, start:end] = 1 / (end - start)
        centres.append((start + end - 1) / 2)
    for plane in range(length):
        weights = [np.interp(plane, centres, unit) for unit in np.eye(len(starts))]
        matrix[plane] = np.asarray(weights) @ averages
    return np.asarray(matrix, np.float32)


@njit(**_OPTIONS)
def _mirrored(index: Any, length: int) -> Any:
    """Index reflected at the centres of the outer voxels."""
    if length == 1:
        return 0
    period = 2 * length - 2
    place = int(abs(index)) % period
    return period - place if place >= length else place


@njit(**_OPTIONS)
def _scaled(out: Array, row: Array, weight: float) -> None:
    for k in range(out.size):
        out[k] = weight * row[k]


@njit(**_OPTIONS)
def _add_both(out: Array, low: Array, high: Array, weight: float) -> None:
    for k in range(out.size):
        out[k] += weight * (low[k] + high[k])


@njit(**_OPTIONS)
def blur(image: Array, spare: Array, kernel0: Array, kernel1: Array, kernel2: Array) -> None:
    """Separable Gaussian, mirrored at the borders.

    Args:
        image: (X, Y, Z) float32, replaced.
        spare: the same shape, overwritten.
        kernel0: half kernel along X, see ``gaussian``; likewise the others.
        kernel1: along Y.
        kernel2: along Z.
    """
    nx, ny, nz = image.shape
    reach = kernel2.size - 1
    padded = np.empty(nz + 2 * reach, np.float32)
    middle = padded[reach : reach + nz]
    for i in range(nx):
        for j in range(ny):
            out = spare[i, j]
            _scaled(out, image[i, j], kernel0[0])
            for d in range(1, kernel0.size):
                low, high = _mirrored(i - d, nx), _mirrored(i + d, nx)
                _add_both(out, image[low, j], image[high, j], kernel0[d])
    for i in range(nx):
        for j in range(ny):
            _scaled(middle, spare[i, j], kernel1[0])
            for d in range(1, kernel1.size):
                low, high = _mirrored(j - d, ny), _mirrored(j + d, ny)
                _add_both(middle, spare[i, low], spare[i, high], kernel1[d])
            for d in range(1, reach + 1):
                padded[reach - d] = middle[_mirrored(-d, nz)]
                padded[reach + nz - 1 + d] = middle[_mirrored(nz - 1 + d, nz)]
            out = image[i, j]
            _scaled(out, middle, kernel2[0])
            for d in range(1, reach + 1):
                below = padded[reach - d : reach - d + nz]
                above = padded[reach + d : reach + d + nz]
                _add_both(out, below, above, kernel2[d])


@njit(**_OPTIONS)
def unsharp(image: Array, blurred: Array, amount: float) -> None:
    """``image + amount * (image - blurred)`` in place; flat arrays."""
    strength = np.float32(amount)
    for q in range(image.size):
        image[q] += strength * (image[q] - blurred[q])


@njit(**_OPTIONS)
def along_first(planes: Array, matrix: Array, out: Array) -> None:
    """``out = matrix @ planes`` for a banded matrix; planes (X, N), matrix (X, X), out (X, N)."""
    for i in range(matrix.shape[0]):
        row = out[i]
        row[:] = np.float32(0)
        for a in range(matrix.shape[1]):
            weight = matrix[i, a]
            if weight != 0:
                source = planes[a]
                for q in range(row.size):
                    row[q] += weight * source[q]


@njit(**_OPTIONS)
def add_noise(image: Array, table: Array, seed: int, sd: float) -> None:
    """Add normal noise; voxel q gets a function of ``seed`` and q only. Flat array."""
    strength = np.float32(sd)
    block = 512
    hashes = np.empty(block, np.uint32)
    key = np.uint32(seed)
    for start in range(0, image.size, block):
        count = min(block, image.size - start)
        for q in range(count):  # "lowbias32" integer hash, C. Wellons
            h = np.uint32(np.uint32(start + q) * np.uint32(0x9E3779B9)) ^ key
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
            h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
            hashes[q] = h ^ (h >> np.uint32(16))
        for q in range(count):
            h = hashes[q]
            image[start + q] += strength * (table[h & 4095] + table[(h >> np.uint32(12)) & 4095])


@njit(**_OPTIONS)
def extent(image: Array) -> tuple[float, float]:
    """Smallest and largest value of a flat array."""
    low, high = image[0], image[0]
    for q in range(image.size):
        low = min(low, image[q])
        high = max(high, image[q])
    return low, high


@njit(**_OPTIONS)
def _exp2(exponent: Array, bits: Array, power: Array, out: Array) -> None:
    """``out = 2 ** exponent`` on rows; ``power`` is the float view of the int32 row ``bits``."""
    for k in range(exponent.size):
        y = min(max(exponent[k], np.float32(-126)), np.float32(126))
        whole = np.floor(y + np.float32(0.5))
        t = (y - whole) * _LN2  # |t| <= 0.35: the series is cut at 2.4e-6
        bits[k] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        out[k] = np.float32(1) + t * (
            np.float32(1)
            + t
            * (
                np.float32(1 / 2)
                + t * (np.float32(1 / 6) + t * (np.float32(1 / 24) + t * np.float32(1 / 120)))
            )
        )
    for k in range(exponent.size):
        out[k] *= power[k]


@njit(**_OPTIONS)
def point(
    image: Array,
    gamma: float,
    low: float,
    high: float,
    legendre0: Array,
    legendre1: Array,
    legendre2: Array,
    bias: Array,
    scale: float,
    shift: float,
) -> None:
    """Gamma on the range low..high, bias field, scale and shift, in one pass.

    Args:
        image: (X, Y, Z) float32, replaced.
        gamma: exponent; 1 is off.
        low: smallest value before gamma.
        high: largest value before gamma.
        legendre0: (4, X) float32 Legendre polynomials of degree 0 to 3 on [-1, 1].
        legendre1: (4, Y).
        legendre2: (4, Z).
        bias: (4, 4, 4) float32 coefficients; of size 0 for none.
        scale: factor.
        shift: offset.
    """
    nx, ny, nz = image.shape
    u, exponent = np.empty(nz, np.float32), np.empty(nz, np.float32)
    mantissa, result = np.empty(nz, np.float32), np.empty(nz, np.float32)
    u_bits, mantissa_bits = u.view(np.int32), mantissa.view(np.int32)
    bits = np.empty(nz, np.int32)
    power = bits.view(np.float32)
    spread = max(np.float32(high - low), np.float32(1e-6))
    inverse, base, g = np.float32(1) / spread, np.float32(low), np.float32(gamma)
    factor, offset = np.float32(scale), np.float32(shift)
    plane = np.zeros((4, 4), np.float32)
    p0, p1, p2, p3 = legendre2[0], legendre2[1], legendre2[2], legendre2[3]
    for i in range(nx):
        if bias.size > 0:
            plane[:] = np.float32(0)
            for a in range(4):
                for b in range(4):
                    for c in range(4):
                        plane[b, c] += bias[a, b, c] * legendre0[a, i]
        for j in range(ny):
            row = image[i, j]
            if gamma != 1:
                for k in range(nz):
                    u[k] = (row[k] - base) * inverse
                for k in range(nz):
                    exponent[k] = np.float32((u_bits[k] >> np.int32(23)) - np.int32(127))
                    mantissa_bits[k] = (u_bits[k] & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
                for k in range(nz):  # log2 by the series of artanh, cut at 5e-7
                    t = (mantissa[k] - np.float32(1)) / (mantissa[k] + np.float32(1))
                    s = t * t
                    series = np.float32(1) + s * (
                        np.float32(1 / 3)
                        + s * (np.float32(1 / 5) + s * (np.float32(1 / 7) + s * np.float32(1 / 9)))
                    )
                    exponent[k] = g * (exponent[k] + np.float32(2) * _LOG2E * t * series)
                _exp2(exponent, bits, power, result)
                for k in range(nz):
                    row[k] = result[k] * spread + base
            if bias.size > 0:
                c0 = c1 = c2 = c3 = np.float32(0)
                for b in range(4):
                    weight = legendre1[b, j]
                    c0 += plane[b, 0] * weight
                    c1 += plane[b, 1] * weight
                    c2 += plane[b, 2] * weight
                    c3 += plane[b, 3] * weight
                for k in range(nz):
                    exponent[k] = _LOG2E * (c0 * p0[k] + c1 * p1[k] + c2 * p2[k] + c3 * p3[k])
                _exp2(exponent, bits, power, result)
                for k in range(nz):
                    row[k] *= result[k]
            if scale != 1 or shift != 0:
                for k in range(nz):
                    row[k] = row[k] * factor + offset


def legendre(length: int) -> NDArray[np.float32]:
    """(4, length) Legendre polynomials of degree 0 to 3 on [-1, 1]."""
    x = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
    rows = [np.ones_like(x), x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2]
    return np.asarray(rows, np.float32)
