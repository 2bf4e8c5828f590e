"""Settings of augmentation of slices and stacks of slices (S15).

A recipe holds probabilities and ranges; None leaves an operation out. Spatial operations act on
both visits and the mask alike, quality and intensity operations are drawn for each visit on its
own and act alike on the slices of its stack. The order is that of S15's code: space first, down to
the crop, then quality (blur, coarse sampling, sharpening, noise), then intensity (local histogram
equalisation, brightness and contrast, radial and linear gradients).

Ranges are (low, high), drawn uniformly. Values are in units of the prepared image, whose
background is 0 and whose main tissue is 1 (see ``preprocess.intensity.HistogramMode``).
"""

from __future__ import annotations

import dataclasses

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Aspect:
    """Stretch the plane to square pixels or to another pixel aspect ratio.

    The ratio of a slice is the length of its pixels along the second axis over that along the
    first. The axis with the longer pixels is stretched; nothing is ever shrunk.

    Args:
        probability: that the slice is stretched by its ratio.
        new_probability: that a slice with a ratio near 1 first gets another one.
        ratio: range of the other one, drawn alike above and below 1: (0.5, 2).
        near: how far from 1 a ratio still counts as 1.
    """

    probability: float = 0.8
    new_probability: float = 0.2
    ratio: Range = (0.5, 2.0)
    near: float = 0.05


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Rotation about the middle of the slice.

    Args:
        probability: of the operation.
        degrees: angle.
        both_ways: clockwise as often as not; False turns one way only.
    """

    probability: float = 0.3
    degrees: Range = (1.0, 45.0)
    both_ways: bool = True


@dataclasses.dataclass(frozen=True)
class GridDistortion:
    """Grid distortion: bands of rows and of columns are stretched or compressed independently.

    Args:
        probability: of the operation.
        steps: bands along each axis.
        limit: largest relative change of a band's extent, below 1.
    """

    probability: float = 0.3
    steps: int = 5
    limit: float = 0.3


@dataclasses.dataclass(frozen=True)
class ScaleCrop:
    """Cut a crop of another extent and resize it to the size of the crop.

    Args:
        probability: of the operation.
        smallest: extent of the smallest one as a share of the crop; the largest is the whole slice.
    """

    probability: float = 0.3
    smallest: float = 1 / 1.5


@dataclasses.dataclass(frozen=True)
class BoxBlur:
    """Mean over a square.

    Args:
        probability: of the operation.
        edges: one of these is taken, in pixels, each equally likely; repeat one to favour it.
    """

    probability: float = 0.2
    edges: tuple[int, ...] = (3, 3, 3, 5, 5, 7)


@dataclasses.dataclass(frozen=True)
class CoarseSampling:
    """Keep fewer pixels, then enlarge again, both by the nearest neighbour.

    Args:
        probability: of the operation.
        scale: pixels kept along each axis, as a share.
    """

    probability: float = 0.1
    scale: Range = (0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class KernelSharpen:
    """Mix the slice with its 3x3 Laplacian plus ``lightness`` times itself.

    Args:
        probability: of the operation.
        alpha: share of the mixture.
        lightness: of the sharpened part.
    """

    probability: float = 0.2
    alpha: Range = (0.0, 0.5)
    lightness: Range = (0.5, 1.5)


@dataclasses.dataclass(frozen=True)
class GaussianNoise:
    """Add independent normal noise.

    Args:
        probability: of the operation.
        mean: of the noise.
        sd: of the noise.
    """

    probability: float = 0.2
    mean: Range = (0.0, 0.1)
    sd: Range = (0.0, 0.2)


@dataclasses.dataclass(frozen=True)
class LocalEqualisation:
    """Contrast-limited adaptive histogram equalisation (CLAHE), equal for all slices of a stack.

    Args:
        probability: of the operation.
        clip: limit of a bin, in multiples of the mean bin of 256.
        tiles: along each axis of the plane.
    """

    probability: float = 0.2
    clip: Range = (1.0, 4.0)
    tiles: int = 8


@dataclasses.dataclass(frozen=True)
class BrightnessContrast:
    """Multiply on the stack's own range, and stretch about its mean, in either order; clipped.

    Args:
        probability: of the operation.
        brightness: factor.
        contrast: factor.
    """

    probability: float = 0.2
    brightness: Range = (0.65, 1.35)
    contrast: Range = (0.65, 1.35)


@dataclasses.dataclass(frozen=True)
class RadialGradient:
    """Multiply by a bump or dip of elliptic shape somewhere in the crop.

    Args:
        probability: of the operation.
        amplitude: of the change at its centre.
    """

    probability: float = 0.2
    amplitude: Range = (-0.3, 0.3)


@dataclasses.dataclass(frozen=True)
class LinearGradient:
    """Multiply by a bump or dip in a band of rows or of columns.

    Args:
        probability: of the operation.
        amplitude: of the change along its middle.
    """

    probability: float = 0.2
    amplitude: Range = (-0.3, 0.3)


@dataclasses.dataclass(frozen=True)
class SliceRecipe:
    """All operations of an experiment.

    Args:
        flip: probability of a flip, of either axis equally often and never of both.
        transpose: probability of exchanging the axes; square crops only.
        others: see their classes; None leaves one out.
    """

    aspect: Aspect | None = None
    rotate: Rotate | None = None
    distort: GridDistortion | None = None
    scale: ScaleCrop | None = None
    flip: float = 0.0
    transpose: float = 0.0
    blur: BoxBlur | None = None
    coarse: CoarseSampling | None = None
    sharpen: KernelSharpen | None = None
    noise: GaussianNoise | None = None
    equalise: LocalEqualisation | None = None
    brightness_contrast: BrightnessContrast | None = None
    radial: RadialGradient | None = None
    linear: LinearGradient | None = None
