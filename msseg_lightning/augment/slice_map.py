"""All spatial operations on a slice as one map of coordinates.

Sizes, steps and directions are written as in a picture: first axis (rows), second axis (columns).
The operations run source -> padded -> stretched -> rotated -> distorted -> crop; sampling needs
the way back, the placing of a crop over a lesion needs the way there, and both are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.augment.slice_recipe import SliceRecipe

Points = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class SliceMap:
    """Map between the pixels of a transformed slice and those of its source.

    Args:
        shape: (2,) pixels of the canvas.
        padding: (2,) pixels put in front of the source.
        stretch: (2,) source pixels per canvas pixel.
        angle: radians; from the second axis towards the first, about the canvas's middle.
        bands: per axis, edges of the distortion's bands before and after it, or None.
    """

    shape: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    stretch: tuple[float, float] = (1.0, 1.0)
    angle: float = 0.0
    bands: tuple[tuple[Points, Points], tuple[Points, Points]] | None = None

    def to_source(self, points: Points) -> Points:
        """(..., 2) canvas positions -> source positions."""
        if self.bands is not None:
            points = np.stack(
                [
                    _along(points[..., axis], after, before)
                    for axis, (before, after) in self._each()
                ],
                axis=-1,
            )
        points = self._turned(points, -self.angle)
        return (points + 0.5) * self.stretch - 0.5 - self.padding

    def from_source(self, points: Points) -> Points:
        """(..., 2) source positions -> canvas positions."""
        points = (points + self.padding + 0.5) / self.stretch - 0.5
        points = self._turned(points, self.angle)
        if self.bands is None:
            return points
        return np.stack(
            [_along(points[..., axis], before, after) for axis, (before, after) in self._each()],
            axis=-1,
        )

    def _each(self) -> list[tuple[int, tuple[Points, Points]]]:
        assert self.bands is not None
        return list(enumerate(self.bands))

    def _turned(self, points: Points, angle: float) -> Points:
        if not angle:
            return points
        middle = (np.array(self.shape) - 1) / 2
        cosine, sine = math.cos(angle), math.sin(angle)
        return (points - middle) @ np.array([[cosine, -sine], [sine, cosine]]) + middle


def _along(values: Points, source: Points, target: Points) -> Points:
    """Piecewise linear map, extrapolated with the slopes of the outermost bands."""
    inside = np.interp(values, source, target)
    first = (target[1] - target[0]) / (source[1] - source[0])
    last = (target[-1] - target[-2]) / (source[-1] - source[-2])
    low, high = values < source[0], values > source[-1]
    inside = np.where(low, target[0] + first * (values - source[0]), inside)
    return np.where(high, target[-1] + last * (values - source[-1]), inside)


def draw_map(
    recipe: SliceRecipe,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    size: Sequence[int],
    generator: np.random.Generator,
) -> SliceMap:
    """Draw stretching, rotation and distortion of one slice.

    Args:
        recipe: probabilities and ranges.
        shape: (2,) of the slice.
        spacing_mm: (2,) of its pixels.
        size: (2,) of the crop; a smaller slice is padded evenly.
        generator: keyed by what the slice is for.
    """
    padded = [max(have, need) for have, need in zip(shape, size, strict=True)]
    first, second = ((edge - have) // 2 for edge, have in zip(padded, shape, strict=True))
    ratio = _ratio(recipe, spacing_mm[1] / spacing_mm[0], generator)
    canvas = (int(padded[0] * max(1.0, 1 / ratio)), int(padded[1] * max(1.0, ratio)))
    angle = 0.0
    if recipe.rotate is not None and generator.random() < recipe.rotate.probability:
        angle = math.radians(generator.uniform(*recipe.rotate.degrees))
        if recipe.rotate.both_ways and generator.random() < 0.5:
            angle = -angle
    bands = None
    distort = recipe.distort
    if distort is not None and generator.random() < distort.probability:
        rows, columns = (_bands(edge, distort.steps, distort.limit, generator) for edge in canvas)
        bands = rows, columns
    stretch = (padded[0] / canvas[0], padded[1] / canvas[1])
    return SliceMap(canvas, (first, second), stretch, angle, bands)


def _ratio(recipe: SliceRecipe, ratio: float, generator: np.random.Generator) -> float:
    """Ratio of the stretching of the second axis to that of the first."""
    aspect = recipe.aspect
    if aspect is None:
        return 1.0
    if abs(ratio - 1) < aspect.near and generator.random() < aspect.new_probability:
        low, high = aspect.ratio
        above = generator.random() < 0.5
        ratio = generator.uniform(1, high) if above else 1 / generator.uniform(1, 1 / low)
    stretched = abs(ratio - 1) > aspect.near and generator.random() < aspect.probability
    return ratio if stretched else 1.0


def _bands(
    edge: int, steps: int, limit: float, generator: np.random.Generator
) -> tuple[Points, Points]:
    """Edges of equal bands of the canvas after the distortion, and where they were before."""
    after = np.linspace(0, edge, steps + 1)
    before = np.concatenate([[0], np.cumsum(1 + generator.uniform(-limit, limit, steps))])
    return before * edge / steps, after


def draw_crop(
    recipe: SliceRecipe,
    where: SliceMap,
    anchor: Sequence[int],
    anywhere: bool,
    size: Sequence[int],
    generator: np.random.Generator,
) -> Points:
    """(*size, 2) positions on the canvas of the pixels of one crop.

    The crop stays on the canvas and holds the anchor, unless the transform moved that off.

    Args:
        recipe: probabilities and ranges.
        where: the canvas.
        anchor: (2,) pixel of the source that the crop is laid over.
        anywhere: the anchor lies anywhere in the crop; False puts it into the middle.
        size: (2,) of the crop.
        generator: keyed by what the slice is for.
    """
    factor = 1.0
    if recipe.scale is not None and generator.random() < recipe.scale.probability:
        largest = min(edge / need for edge, need in zip(where.shape, size, strict=True))
        factor = generator.uniform(min(recipe.scale.smallest, largest), largest)
    aim = where.from_source(np.asarray(anchor, np.float64))
    axes = []
    for axis, length in enumerate(size):
        edge = factor * length
        back = generator.random() * edge if anywhere else edge // 2
        # unscaled crops lie on the canvas's lattice
        start = np.rint(aim[axis]) - np.floor(back) if factor == 1 else aim[axis] - back
        start = np.clip(start, 0, max(0.0, where.shape[axis] - edge))
        axes.append(start + (np.arange(length) + 0.5) * factor - 0.5)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
