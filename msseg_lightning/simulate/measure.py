"""Measurements of scans: white matter, noise, contrast and lesion sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.simulate.real_anatomy import white_matter_level


@dataclasses.dataclass(frozen=True)
class ScanMeasures:
    """Measurements of one scan with a mask of all lesions.

    Args:
        white: signal of white matter, the mode deep in the brain.
        noise: standard deviation of the fine structure of white matter over ``white``.
        contrasts: mean signal of each lesion of at least 5 mm3 over ``white``.
        volumes_mm3: of each lesion above 3 mm3.
        histogram: share of brain voxels in 60 bins of signal over ``white`` from 0 to 2.
    """

    white: float
    noise: float
    contrasts: NDArray[np.float64]
    volumes_mm3: NDArray[np.float64]
    histogram: NDArray[np.float64]


BINS = np.linspace(0, 2, 61)


def noise_level(image: NDArray[np.float32], region: NDArray[np.bool_], axis: int = 0) -> float:
    """Robust deviation of noise from second differences along one axis.

    ``x[i] - (x[i-1] + x[i+1]) / 2`` has 1.5 times the variance of independent noise and does not
    see slopes; the median absolute deviation does not see edges. Interpolation lowers it, texture
    raises it, alike in simulated and real scans.
    """
    values = np.moveaxis(image, axis, 0)
    inside = np.moveaxis(region, axis, 0)[1:-1]
    second = (values[1:-1] - 0.5 * (values[:-2] + values[2:]))[inside]
    spread = float(np.median(np.abs(second - np.median(second))))
    return 1.4826 * spread / np.sqrt(1.5)


def measure_scan(
    image: NDArray[np.generic],
    brain: NDArray[np.generic],
    lesions: NDArray[np.generic] | None,
    voxel_volume_mm3: float,
) -> ScanMeasures:
    """Measure one scan; without a mask of lesions the lesion figures are empty."""
    from scipy import ndimage

    values = np.asarray(image, np.float32)
    inside = brain != 0
    white = white_matter_level(values, brain)
    ill = np.zeros(values.shape, bool) if lesions is None else lesions != 0
    deep = ndimage.binary_erosion(inside, iterations=6)
    calm = deep & ~ndimage.binary_dilation(ill, iterations=2) & (np.abs(values / white - 1) < 0.12)
    calm = ndimage.binary_erosion(calm)
    labels, number = label_lesions(ill)
    sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    sums = np.bincount(labels.ravel(), values.ravel(), minlength=number + 1)[1:]
    volumes = sizes * voxel_volume_mm3
    counts, _ = np.histogram(values[inside] / white, BINS)
    return ScanMeasures(
        white=white,
        noise=noise_level(values, calm) / white if calm.any() else float("nan"),
        contrasts=np.asarray((sums / np.maximum(sizes, 1) / white)[volumes >= 5], np.float64),
        volumes_mm3=np.asarray(volumes[volumes > 3], np.float64),
        histogram=counts / max(counts.sum(), 1),
    )
