"""A fast implementation of N4 by small matrix products.

N4 alternates two steps: sharpen the histogram of the log image by taking a Gaussian out of it, and
fit a smooth cubic B-spline to what the sharpening changed. The fit and its evaluation take nearly
all the time; because the basis is separable, each is three small matrix products here.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Sharpening:
    """Parameters of histogram sharpening (Tustison et al. 2010, section II-A).

    Args:
        bins: of the histogram.
        fwhm: full width at half maximum of the Gaussian taken out, in log intensity.
        noise: of the Wiener filter.
    """

    bins: int = 200
    fwhm: float = 0.15
    noise: float = 0.01

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) expected true value of each log intensity."""
        low, high = float(values.min()), float(values.max())
        if high - low < 1e-9:
            return values
        width = (high - low) / (self.bins - 1)
        place = (values - low) / width
        index = np.minimum(place.astype(np.int64), self.bins - 2)
        part = place - index
        counts = np.bincount(index, 1 - part, self.bins) + np.bincount(index + 1, part, self.bins)
        length = 2 ** (int(np.ceil(np.log2(self.bins))) + 1)
        start = (length - self.bins) // 2
        padded = np.zeros(length)
        padded[start : start + self.bins] = counts
        distance = np.minimum(np.arange(length), length - np.arange(length)) * width / self.fwhm
        blur = np.fft.fft(
            np.exp(-4 * np.log(2) * distance**2)
            * 2
            * np.sqrt(np.log(2) / np.pi)
            * width
            / self.fwhm
        )
        wiener = np.conj(blur) / (np.abs(blur) ** 2 + self.noise)
        sharp = np.clip(np.fft.ifft(np.fft.fft(padded) * wiener).real, 0, None)
        centres = low + (np.arange(length) - start) * width
        above = np.fft.ifft(np.fft.fft(centres * sharp) * blur).real
        below = np.fft.ifft(np.fft.fft(sharp) * blur).real
        known = np.abs(below) > 1e-9
        expected = np.where(known, above / np.where(known, below, 1), centres)
        expected = expected[start : start + self.bins]
        return np.asarray(expected[index] * (1 - part) + expected[index + 1] * part)


def fast_log_field(
    data: Values,
    mask: NDArray[np.bool_],
    factors: tuple[int, int, int],
    iterations: tuple[int, ...],
    sharpening: Sharpening,
    convergence: float,
    control_points: int,
) -> Values:
    """(X, Y, Z) logarithm of the bias field.

    Args:
        data: (X, Y, Z) image.
        mask: where it is fitted; voxels that are not positive are left out.
        factors: thinning along each axis, at most its edge.
        iterations: most at each resolution of the spline; each has twice the spans of the last.
        sharpening: of the histogram.
        convergence: coefficient of variation of a change of the field that ends a resolution.
        control_points: per axis at the coarsest resolution.

    Reference:
        Tustison et al. 2010, https://doi.org/10.1109/TMI.2010.2046908; spline fit: Lee, Wolberg and
        Shin 1997, https://doi.org/10.1109/2945.620490
    """
    first = [(edge - (edge // step - 1) * step - 1) // 2 for edge, step in pairs(data, factors)]
    some = tuple(slice(start, None, step) for start, step in zip(first, factors, strict=True))
    thin = data[some]  # single voxels as in ITK: means would mix tissues at their borders
    inside = mask[some] & (thin > 0)
    logs = np.log(thin[inside], dtype=np.float64)
    field = np.zeros(thin.shape, np.float32)
    found = []
    for level, most in enumerate(iterations):
        spline = Spline(thin.shape, (control_points - 3) * 2**level + 3, inside)
        total = np.zeros((spline.points,) * 3, np.float32)
        for _ in range(most):
            values = np.asarray(logs - field[inside], np.float64)
            residual = np.zeros(thin.shape, np.float32)
            residual[inside] = values - sharpening(values)
            change = spline.fit(residual)
            total += change
            update = spline.values(change)
            field += update
            factor = np.exp(update[inside])
            if factor.std() < convergence * factor.mean():
                break
        found.append(total)
    # the places of all voxels between the first and the last of the thinned ones
    places = [
        (np.arange(edge) - start) / (step * max(size - 1, 1))
        for (edge, step), start, size in zip(pairs(data, factors), first, thin.shape, strict=True)
    ]
    result = np.zeros(data.shape, np.float32)
    for total in found:
        result += product(total, [basis(place, len(total)).T for place in places])
    return result


def pairs(data: Values, factors: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Edge and shrink factor of each axis."""
    return list(zip(data.shape, factors, strict=True))


class Spline:
    """Cubic B-splines on a block, fitted by the approximation of Lee, Wolberg and Shin.

    Args:
        shape: of the block.
        points: control points per axis.
        inside: (X, Y, Z) where there are samples.
    """

    def __init__(self, shape: tuple[int, ...], points: int, inside: NDArray[np.bool_]) -> None:
        self.points = points
        self.bases = [basis(np.linspace(0, 1, edge), points) for edge in shape]
        squares = [(base**2).sum(1) for base in self.bases]
        self.scale = 1 / (
            squares[0][:, None, None] * squares[1][None, :, None] * squares[2][None, None]
        )
        weight = product(inside.astype(np.float32), [base**2 for base in self.bases])
        self.weight = np.maximum(weight, 1e-30)  # no sample near: no change
        self.cubes = [base**3 for base in self.bases]

    def fit(self, residual: Values) -> Values:
        """(P, P, P) control points."""
        return (product(residual * self.scale, self.cubes) / self.weight).astype(np.float32)

    def values(self, points: Values) -> Values:
        """(X, Y, Z) values on the block."""
        return product(points, [base.T for base in self.bases])


def product(block: Values, matrices: list[Values]) -> Values:
    """Multiply a block by one matrix along each axis."""
    for matrix in matrices:  # the first axis is worked off and comes back as the last
        first, *rest = block.shape
        block = (block.reshape(first, -1).T @ matrix).reshape(*rest, -1)
    return block


def basis(places: NDArray[np.floating], points: int) -> Values:
    """(N, points) cubic B-spline weights at positions from 0 to 1, clipped to that range."""
    spans = points - 3
    place = np.clip(places, 0, 1 - 1e-7) * spans
    index = place.astype(np.int64)
    u = place - index
    weights = (
        np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], 1)
        / 6
    )
    found = np.zeros((len(places), points), np.float32)
    for offset in range(4):
        found[np.arange(len(places)), index + offset] = weights[:, offset]
    return found
