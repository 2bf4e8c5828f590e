"""Contrast of a lesion: its mean intensity over that of a shell around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.evaluate.case_score import Lesion

SHELL_MM = 3.0
"""Thickness of the shell; at least one voxel along every axis."""


def lesion_contrasts(
    lesions: Sequence[Lesion],
    mask: NDArray[np.generic],
    other: NDArray[np.generic],
    image: NDArray[np.generic],
    spacing_mm: tuple[float, float, float],
) -> list[float | None]:
    """Contrast of each lesion that counts; None of others and without a shell.

    The shell begins one voxel away from the lesion, so that a border drawn too tightly does not
    count as surroundings. Voxels of either mask and those of intensity 0 are no surroundings.

    Args:
        lesions: components of ``mask``.
        mask: (X, Y, Z).
        other: (X, Y, Z), the mask that it is compared with.
        image: (X, Y, Z) follow-up scan.
        spacing_mm: of the voxels.
    """
    reach = [1 + max(1, round(SHELL_MM / edge)) for edge in spacing_mm]
    return [_contrast(lesion, mask, other, image, reach) for lesion in lesions]


def _contrast(
    lesion: Lesion,
    mask: NDArray[np.generic],
    other: NDArray[np.generic],
    image: NDArray[np.generic],
    reach: Sequence[int],
) -> float | None:
    if not lesion.counted:
        return None
    box = tuple(
        slice(max(low - margin, 0), high + margin)
        for (low, high), margin in zip(lesion.box, reach, strict=True)
    )
    own = _component(lesion, np.asarray(mask[box]) != 0)
    values = np.asarray(image[box], np.float64)
    near = ndimage.binary_dilation(own, ndimage.generate_binary_structure(3, 3))
    size = tuple(2 * margin + 1 for margin in reach)
    far = ndimage.maximum_filter(own.astype(np.uint8), size) > 0
    shell = far & ~near & (np.asarray(mask[box]) == 0) & (np.asarray(other[box]) == 0)
    shell &= values > 0
    around = float(values[shell].mean()) if shell.any() else 0.0
    return float(values[own].mean()) / around if around > 0 else None


def _component(lesion: Lesion, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The component of the lesion's size; another one may reach into its box."""
    labels, count = label_lesions(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(labels == np.argmin(np.abs(sizes - lesion.voxels)))
