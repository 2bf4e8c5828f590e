"""Number of other places of a brain that look as much like a new lesion as a reference lesion.

The references of open_ms were marked with other sequences at hand, too, and the sign of a change is
derived. A lesion that rises in FLAIR no more than a thousand other places of the brain cannot be
told from them in FLAIR, whoever tries. Nothing here looks at a system's answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RING_VOXELS = 5
GAP_VOXELS = 1
PLANE = np.zeros((3, 3, 3), bool)
PLANE[:, :, 1] = ndimage.generate_binary_structure(2, 1)


def count_rivals(
    baseline: NDArray[np.generic],
    followup: NDArray[np.generic],
    brain: NDArray[np.bool_],
    labels: NDArray[np.integer],
    count: int,
) -> NDArray[np.int64]:
    """Number of places at which the same outline rises at least as much as on the lesion.

    The rise is the mean of follow-up minus baseline (each z-scored in the brain) within the
    outline, less the mean in a ring of four voxels around it in the slice. The outline is moved to
    every place where it fits into the brain without touching a reference lesion; of places nearer
    than the lesion is wide only the best counts. This is a linear observer who knows size and shape
    of the lesion beforehand: more than any system knows, but it does not know anatomy.

    Args:
        baseline: (X, Y, Z) image.
        followup: (X, Y, Z) image.
        brain: (X, Y, Z) mask.
        labels: (X, Y, Z) lesions numbered 1 to ``count``, slices along the last axis.
        count: number of lesions.

    Returns:
        (count,) rivals of each lesion.
    """
    tissue = brain.astype(np.float32)
    difference = (_standardised(followup, brain) - _standardised(baseline, brain)) * tissue
    free = (labels == 0).astype(np.float32)
    rivals = np.zeros(count, np.int64)
    for number, box in enumerate(ndimage.find_objects(labels, max_label=count)):
        if box is None:
            continue
        edge = RING_VOXELS
        outline = np.pad(labels[box] == number + 1, ((edge, edge), (edge, edge), (0, 0)))
        ring = ndimage.binary_dilation(outline, PLANE, iterations=edge)
        ring &= ~ndimage.binary_dilation(outline, PLANE, iterations=GAP_VOXELS)
        level = _sums(difference, ring) / np.maximum(_sums(tissue, ring), 1)
        rise = _sums(difference, outline) / outline.sum() - level
        # where the outline lies on the lesion itself; sums are written to its box's first voxel
        pad = np.array([edge, edge, 0])
        own = tuple(np.array([part.start for part in box]) - pad + np.array(outline.shape) // 2)
        fits = _sums(tissue * free, outline) > outline.sum() - 0.5
        own_rise = rise[own] if _within(own, rise.shape) else -np.inf
        rise[~fits] = -np.inf
        wide = [2 * (part.stop - part.start) - 1 for part in box]
        best = rise == ndimage.maximum_filter(rise, size=wide)
        rivals[number] = int((best & fits & (rise >= own_rise)).sum())
    return rivals


def _within(place: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(0 <= index < size for index, size in zip(place, shape, strict=True))


def _sums(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sum of the values under a mask moved to every place, noted at the mask's middle voxel."""
    from scipy.signal import oaconvolve

    kernel = mask[::-1, ::-1, ::-1].astype(np.float32)
    full = oaconvolve(values, kernel, mode="full")
    first = [(size - 1) - size // 2 for size in mask.shape]
    return np.asarray(
        full[tuple(slice(a, a + size) for a, size in zip(first, values.shape, strict=True))]
    )


def _standardised(image: NDArray[np.generic], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    values = np.asarray(image, np.float32)
    tissue = values[brain & (values > 0)]
    return np.asarray((values - tissue.mean()) / tissue.std(), np.float32)
