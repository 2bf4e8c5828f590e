"""The template head: tissue maps and distances in MNI space."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COARSE_MM = 2
CSF_T1, GREY_T1 = 0.32, 0.66
"""Intensity of the template's T1 (scaled to 1) in ventricles and in cortex: between them lies the
share of CSF. Read off the template at the lateral ventricle (0.25-0.31) and the cortex (0.68)."""


@dataclasses.dataclass(frozen=True)
class Head:
    """Tissue levels on 1 mm and distances on 2 mm, both in MNI space.

    Args:
        maps: (X, Y, Z, 3) uint8; white matter, grey matter and CSF level, 255 is certain.
        distances: (X, Y, Z, 2) float32 mm; first to the brain's hull (negative inside), second to
            the ventricles (negative inside).
        origin_mm: MNI position of the first voxel of both.
    """

    maps: NDArray[np.uint8]
    distances: NDArray[np.float32]
    origin_mm: NDArray[np.float64]

    def at(self, points_mm: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n, 5) white, grey, CSF level in [0, 1], distance to hull and to ventricles in mm.

        Nearest voxel; points outside take the border's values.
        """
        index = np.rint(points_mm - self.origin_mm).astype(int)
        fine = np.clip(index, 0, np.array(self.maps.shape[:3]) - 1)
        coarse = np.clip(index // COARSE_MM, 0, np.array(self.distances.shape[:3]) - 1)
        levels = self.maps[tuple(fine.T)].astype(np.float32) / 255
        return np.concatenate([levels, self.distances[tuple(coarse.T)]], axis=1)


@functools.cache
def load_head() -> Head:
    """Build the head from nilearn's template, once per process.

    The template's T1 is skull-stripped and its maps know white and grey matter only, so the brain's
    hull is where T1 is positive, CSF is where T1 is dark, and the ventricles are the dark
    components deeper than 12 mm. What lies outside the hull is drawn by ``render``.
    """
    from scipy import ndimage

    t1, grey, white, origin = _template_maps()
    csf = np.clip((GREY_T1 - t1) / (GREY_T1 - CSF_T1), 0, 1)
    csf *= 1 - np.clip(white, 0, 1)
    maps = np.stack([white, grey, csf], axis=-1)
    levels = np.round(np.clip(maps, 0, 1) * 255).astype(np.uint8)

    coarse = (slice(None, None, COARSE_MM),) * 3
    hull = ndimage.binary_fill_holes(t1[coarse] > 0.05)
    brain = ndimage.binary_opening(hull, iterations=1)
    depth = _signed_distance(brain)
    # A ventricle is dark and deep; the cisterns below the brain and the Sylvian fissure are not.
    dark = (csf[coarse] > 0.5) & (depth < -12)
    labels, _ = ndimage.label(dark)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    x, y, z = _coordinates(labels.shape, origin)
    large = np.isin(labels, np.flatnonzero(sizes > 10))
    body = (np.abs(x) > 2) & (np.abs(x) < 42) & (z > -18) & (z < 36) & (y > -62) & (y < 42)
    body &= ~((np.abs(x) > 30) & (y > -15))  # insular CSF
    body &= ~((np.abs(x) < 16) & (y < -24) & (z < 12))  # cisterns around the midbrain
    third = (np.abs(x) < 5) & (y > -32) & (y < 6) & (z > -14) & (z < 14)
    fourth = (np.abs(x) < 10) & (y > -54) & (y < -34) & (z > -46) & (z < -20)
    ventricles = large & (body | third | fourth)
    return Head(
        maps=levels,
        distances=np.stack([depth, _signed_distance(ventricles)], axis=-1).astype(np.float32),
        origin_mm=origin,
    )


def _template_maps() -> tuple[NDArray[Any], ...]:
    """T1, grey and white matter in [0, 1], and the world of the first voxel.

    Read from nilearn's folder directly where they lie as usual: importing ``nilearn.datasets``
    takes longer than all else here. Its loaders, which give the same values, are the way round.
    """
    import importlib.util

    import nibabel

    found = importlib.util.find_spec("nilearn")
    places = [] if found is None else list(found.submodule_search_locations or [])
    folder = Path(places[0] if places else ".") / "datasets" / "data"
    files = [
        folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        for name in ("t1", "gm", "wm")
    ]
    if all(file.is_file() for file in files):
        images = [nibabel.nifti1.Nifti1Image.from_filename(file) for file in files]
    else:
        from nilearn import datasets

        images = [
            datasets.load_mni152_template(resolution=1),
            datasets.load_mni152_gm_template(resolution=1),
            datasets.load_mni152_wm_template(resolution=1),
        ]
    maps = [np.asarray(image.dataobj, np.float32) for image in images]
    origin = np.asarray(images[0].affine[:3, 3], np.float64)
    return (*(one / one.max() for one in maps), origin)


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    # half a voxel on each side, so that the border itself is at zero
    distance = np.where(mask, 0.5 - inside, outside - 0.5) * COARSE_MM
    return np.asarray(ndimage.gaussian_filter(distance, 0.7))


def _coordinates(
    shape: tuple[int, ...], origin: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    axes = [origin[axis] + COARSE_MM * np.arange(shape[axis]) for axis in range(3)]
    return tuple(np.meshgrid(*axes, indexing="ij", sparse=True))
