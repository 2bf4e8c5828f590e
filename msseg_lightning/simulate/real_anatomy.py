"""Adding simulated lesions to real scans, and filling real lesions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.volume import Affine, Volume
from msseg_lightning.simulate import acquire, render
from msseg_lightning.simulate.head import load_head
from msseg_lightning.simulate.lesion import Lesion
from msseg_lightning.simulate.warp import LATTICE_ORIGIN_MM, LATTICE_SHAPE, Warp

DARK, BRIGHT = 0.72, 1.25
"""Range of signal relative to white matter in which new lesions may be placed."""


@dataclasses.dataclass(frozen=True)
class Inserted:
    """A scan with inserted lesions.

    Args:
        flair: the changed scan.
        mask: (X, Y, Z) uint8, voxels at least half new lesion.
        volumes_mm3: rendered volume of each lesion, 0 where none of it found tissue.
    """

    flair: Volume
    mask: Volume
    volumes_mm3: tuple[float, ...]


def white_matter_level(
    flair: NDArray[np.generic], brain: NDArray[np.generic], within: int = 6
) -> float:
    """Most frequent signal deep in the brain, which in FLAIR is that of white matter.

    Args:
        flair: (X, Y, Z).
        brain: (X, Y, Z) mask.
        within: erosions of the mask before looking; fewer where that leaves nothing.
    """
    from scipy import ndimage

    deep = brain != 0
    while within > 0 and ndimage.binary_erosion(deep, iterations=within).sum() < 1000:
        within -= 1
    if within:
        deep = ndimage.binary_erosion(deep, iterations=within)
    values = np.asarray(flair, np.float32)[deep]
    counts, edges = np.histogram(values, 256, range=(0, float(np.percentile(values, 99.5))))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 3)
    smooth[: len(smooth) // 4] = 0  # CSF and what the mask took from outside
    peak = int(np.argmax(smooth))
    return float(0.5 * (edges[peak] + edges[peak + 1]))


def insert_lesions(
    flair: Volume,
    brain: Volume,
    lesions: Sequence[Lesion],
    to_template: Affine,
    generator: np.random.Generator,
    blur_voxels: float = 0.5,
) -> Inserted:
    """Add lesions to a scan in proportion to its own white matter's signal.

    A lesion is rendered as in a simulated patient, but limited to tissue of the real scan (between
    CSF and old lesion). It is added, not painted: the scan's noise and texture stay.

    Args:
        flair: the follow-up, any grid.
        brain: its brain mask on that grid.
        lesions: such as ``draw_lesions`` gives; the follow-up's scale is used.
        to_template: (4, 4) world of the scan -> MNI; an affine is enough to find the place.
        generator: of the irregular borders.
        blur_voxels: point spread of the scan.
    """
    from scipy import ndimage

    head = load_head()
    image = np.asarray(flair.data, np.float32)
    white = white_matter_level(image, brain.data)
    smooth = ndimage.gaussian_filter(image, 0.7) / white
    tissue = (np.asarray(brain.data) != 0) & (smooth > DARK) & (smooth < BRIGHT)
    still = np.zeros((*LATTICE_SHAPE, 3), np.float32)
    warp = Warp(still, np.asarray(to_template, np.float64))
    spacing = flair.spacing_mm
    points, weights = acquire.voxel_points(spacing, int(np.argmax(spacing)), 0.5)
    tile = render.noise_tile(generator)
    index = np.linalg.inv(flair.affine)
    extra = np.zeros(image.shape, np.float32)
    mask = np.zeros(image.shape, np.uint8)
    volumes = []
    for lesion in lesions:
        if not lesion.present(1):
            volumes.append(0.0)
            continue
        centre = index[:3, :3] @ warp.invert(lesion.centre_mm[None])[0] + index[:3, 3]
        reach = (1.45 * lesion.half_axes_mm[0] + 4.0) / np.array(spacing)
        start = np.floor(centre - reach).astype(np.int64).clip(0, image.shape)
        stop = (np.ceil(centre + reach).astype(np.int64) + 1).clip(0, image.shape)
        if (stop <= start).any():
            volumes.append(0.0)
            continue
        share, weight, _ = render.render_lesion(
            start,
            stop,
            np.ascontiguousarray(flair.affine, np.float64),
            points,
            weights,
            still,
            LATTICE_ORIGIN_MM,
            warp.to_template,
            head.maps,
            head.distances,
            head.origin_mm,
            tile,
            np.zeros(len(render.STYLE)),
            lesion.centre_mm,
            lesion.shape_matrix(1),
            lesion.radius_mm * lesion.scales[1],
            lesion.irregular,
            float(lesion.number % 61) + 0.37,
            lesion.core,
            lesion.halo,
            True,
            6.0 + max(spacing),
        )
        where = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        here = tissue[where]
        bright = (lesion.contrast - 1) * white * weight * here
        np.maximum(extra[where], bright, out=extra[where])
        found = (share >= 0.5) & here
        mask[where] |= found.astype(np.uint8)
        volumes.append(float(found.sum() * np.prod(spacing)))
    changed = image + ndimage.gaussian_filter(extra, blur_voxels)
    if np.issubdtype(flair.data.dtype, np.integer):
        limits = np.iinfo(flair.data.dtype.name)
        changed = np.clip(np.rint(changed), limits.min, limits.max)
    return Inserted(
        flair=Volume(changed.astype(flair.data.dtype), flair.affine),
        mask=Volume(mask, flair.affine, "mask"),
        volumes_mm3=tuple(volumes),
    )


def fill_lesions(
    flair: Volume, lesions: Volume, brain: Volume, generator: np.random.Generator
) -> Volume:
    """Fill lesions with intensities like those of the white matter around them.

    Inside the mask, dilated by one voxel, the signal becomes a Gaussian-weighted mean of the
    healthy tissue nearby (normalised convolution; wider where nothing healthy is near) plus noise
    of the strength found there. Used on a baseline, a lesion of the follow-up becomes new.

    Args:
        flair: the scan.
        lesions: mask of what is to go.
        brain: brain mask.
        generator: of the noise.
    """
    from scipy import ndimage

    image = np.asarray(flair.data, np.float32)
    white = white_matter_level(image, brain.data)
    gone = ndimage.binary_dilation(
        np.asarray(lesions.data) != 0, ndimage.generate_binary_structure(3, 3)
    )
    gone &= np.asarray(brain.data) != 0
    ratio = image / white
    healthy = (np.asarray(brain.data) != 0) & ~gone & (ratio > 0.8) & (ratio < BRIGHT)
    spacing = np.array(flair.spacing_mm)
    filled = np.full(image.shape, white, np.float32)
    for sigma_mm in (12.0, 6.0, 3.0):  # the narrowest that still finds tissue wins
        sigma = sigma_mm / spacing
        share = ndimage.gaussian_filter(healthy.astype(np.float32), sigma)
        mean = ndimage.gaussian_filter(np.where(healthy, image, 0), sigma)
        near = share > 0.02
        filled[near] = mean[near] / share[near]
    residual = image - ndimage.gaussian_filter(image, 1.0)
    noise = 1.4826 * float(np.median(np.abs(residual[healthy]))) if healthy.any() else 0.0
    grain = ndimage.gaussian_filter(generator.standard_normal(image.shape, dtype=np.float32), 0.5)
    filled += noise * grain / max(float(grain.std()), 1e-6)
    soft = ndimage.gaussian_filter(gone.astype(np.float32), 0.6)
    soft[np.asarray(lesions.data) != 0] = 1
    changed = image * (1 - soft) + filled * soft
    if np.issubdtype(flair.data.dtype, np.integer):
        changed = np.rint(changed)
    return Volume(changed.astype(flair.data.dtype), flair.affine)
