"""Quality and intensity operations on the stack of one visit (S15).

Every function takes a stack (depth, H, W) float32 and returns a changed one; what is random is
given as numbers, so each can be checked on its own. ``apply`` draws them from a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.augment.slice_recipe import SliceRecipe

Stack = NDArray[np.float32]
SMALLEST_GRADIENT = 10
"""Length of the shortest gradient in pixels [C]."""
FLAT = 1e-6
"""Range of values below which a stack is left unchanged [C]."""


def apply(recipe: SliceRecipe, stack: Stack, generator: np.random.Generator) -> Stack:
    """Draw and apply the operations of a recipe, in its order."""
    uniform, chance = generator.uniform, generator.random
    if (blur := recipe.blur) is not None and chance() < blur.probability:
        stack = box_blur(stack, int(generator.choice(blur.edges)))
    if (few := recipe.coarse) is not None and chance() < few.probability:
        stack = coarse(stack, uniform(*few.scale))
    if (sharp := recipe.sharpen) is not None and chance() < sharp.probability:
        stack = sharpen(stack, uniform(*sharp.alpha), uniform(*sharp.lightness))
    if (noise := recipe.noise) is not None and chance() < noise.probability:
        added = generator.normal(uniform(*noise.mean), uniform(*noise.sd), stack.shape)
        stack = stack + added.astype(np.float32)
    if (equal := recipe.equalise) is not None and chance() < equal.probability:
        stack = equalise(stack, uniform(*equal.clip), equal.tiles)
    if (point := recipe.brightness_contrast) is not None and chance() < point.probability:
        factors = uniform(*point.brightness), uniform(*point.contrast)
        stack = brightness_contrast(stack, *factors, brightness_first=bool(chance() < 0.5))
    if (bump := recipe.radial) is not None and chance() < bump.probability:
        stack = stack * radial(stack.shape[1:], uniform(*bump.amplitude), generator)
    if (band := recipe.linear) is not None and chance() < band.probability:
        stack = stack * linear(stack.shape[1:], uniform(*band.amplitude), generator)
    return stack


def box_blur(stack: Stack, edge: int) -> Stack:
    """Mean over a square of ``edge`` pixels, mirrored at the borders."""
    return np.asarray(ndimage.uniform_filter(stack, (0, edge, edge), mode="mirror"), np.float32)


def coarse(stack: Stack, scale: float) -> Stack:
    """Reduce the number of pixels and restore it, both by nearest neighbour."""
    for axis in (1, 2):
        length = stack.shape[axis]
        kept = max(1, round(length * scale))
        source = (np.arange(kept) * length) // kept
        stack = stack.take(source[(np.arange(length) * kept) // length], axis)
    return stack


def sharpen(stack: Stack, alpha: float, lightness: float) -> Stack:
    """``(1 - alpha) x + alpha (8 x - the sum of 8 neighbours + lightness x)``."""
    around = 9 * ndimage.uniform_filter(stack, (0, 3, 3), mode="mirror") - stack
    return np.asarray((1 - alpha) * stack + alpha * ((8 + lightness) * stack - around), np.float32)


def equalise(stack: Stack, clip: float, tiles: int) -> Stack:
    """Contrast-limited adaptive histogram equalisation on the stack's own range.

    Tiles reach through the stack, so its slices stay comparable: the library stretches what it is
    given to the full range, which would part slices handed over one by one.
    """
    from skimage.exposure import equalize_adapthist

    low, width = _range(stack)
    if width < FLAT:
        return stack
    depth, *edges = stack.shape
    kernel = (depth, *(max(1, edge // tiles) for edge in edges))
    unit = np.clip((stack - low) / width, 0, 1)
    changed = equalize_adapthist(unit, kernel, clip_limit=clip / 256, nbins=256)
    return np.asarray(changed * width + low, np.float32)


def brightness_contrast(
    stack: Stack, brightness: float, contrast: float, brightness_first: bool
) -> Stack:
    """Change brightness and contrast, clipped to the stack's own range."""
    low, width = _range(stack)
    if width < FLAT:
        return stack
    unit = (stack - low) / width
    for brighten in (brightness_first, not brightness_first):
        unit = unit * brightness if brighten else unit.mean() + contrast * (unit - unit.mean())
        unit = np.clip(unit, 0, 1)
    return np.asarray(unit * width + low, np.float32)


def radial(
    shape: Sequence[int], amplitude: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """(H, W) factors: 1 outside an ellipse, ``1 + amplitude`` at its centre.

    Its width is any from 10 pixels to the crop's, its height half to twice that, it lies inside
    the crop.
    """
    height, width = shape
    across = _length(width, generator)
    high = min(int(generator.integers(across // 2, 2 * across + 1)), height)
    factors = np.ones((height, width), np.float32)
    top = int(generator.integers(height - high + 1))
    left = int(generator.integers(width - across + 1))
    rows, columns = np.linspace(-1, 1, high)[:, None], np.linspace(-1, 1, across)[None, :]
    bump = 1 - np.clip(rows**2 + columns**2, 0, 1)
    factors[top : top + high, left : left + across] += (amplitude * bump).astype(np.float32)
    return factors


def linear(
    shape: Sequence[int], amplitude: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """(H, W) factors: 1 outside a band of rows or columns, ``1 + amplitude`` along its middle."""
    axis = int(generator.integers(2))
    length = _length(shape[axis], generator)
    start = int(generator.integers(shape[axis] - length + 1))
    profile = np.ones(shape[axis], np.float32)
    profile[start : start + length] += amplitude * (1 - np.linspace(-1, 1, length) ** 2)
    along = profile[:, None] if axis == 0 else profile[None, :]
    return np.broadcast_to(along, tuple(shape)).astype(np.float32)


def _length(edge: int, generator: np.random.Generator) -> int:
    return int(generator.integers(min(SMALLEST_GRADIENT, edge), edge + 1))


def _range(stack: Stack) -> tuple[float, float]:
    low, high = float(stack.min()), float(stack.max())
    return low, high - low
