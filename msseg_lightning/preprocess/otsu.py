"""Brain masks by thresholding and morphology."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, image_names


def _closed(mask: NDArray[np.bool_], iterations: int) -> NDArray[np.bool_]:
    """Binary closing with padding at the border of the volume."""
    padded = np.pad(mask, iterations)
    inner = tuple(slice(iterations, -iterations) for _ in range(mask.ndim))
    return np.asarray(ndimage.binary_closing(padded, iterations=iterations)[inner])


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = label_lesions(mask, 26)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + np.bincount(labels.ravel())[1:].argmax())


@dataclasses.dataclass(frozen=True)
class OtsuBrain:
    """Add a brain mask by Otsu's threshold and morphology, as in the public code of S25.

    Otsu's threshold on each visit, both, ``erosions``, the largest component, ``dilations``, a
    closing, holes filled; axial slices (found from the affine) that cover little of the field are
    emptied, and large ones closed and filled once more in their plane. All in voxels, with the
    6-neighbour element (4 in a slice); a component holds together by faces, edges and corners.

    Args:
        erosions: iterations.
        dilations: iterations.
        closing: iterations in 3D.
        empty_below: share of a slice's field up to which it is emptied.
        close_above: share of a slice's field above which it is closed again.
        slice_closing: iterations of that.
    """

    erosions: int = 5
    dilations: int = 5
    closing: int = 20
    empty_below: float = 0.01
    close_above: float = 0.30
    slice_closing: int = 5

    version: ClassVar[int] = 2

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        from skimage.filters import threshold_otsu

        grid = common_grid(subject, self)
        mask = np.ones(grid.shape, bool)
        for name in image_names(subject):
            data = np.asarray(subject.volumes[name].data, np.float32)
            mask &= data > (threshold_otsu(data) if data.min() < data.max() else data.max())
        if self.erosions:  # scipy takes 0 iterations for "until nothing changes"
            mask = ndimage.binary_erosion(mask, iterations=self.erosions)
        mask = _largest(mask)
        if self.dilations:
            mask = ndimage.binary_dilation(mask, iterations=self.dilations)
        mask = ndimage.binary_fill_holes(_closed(mask, self.closing))
        axial = int(np.abs(grid.affine[2, :3] / np.array(grid.spacing_mm)).argmax())
        for plane in np.moveaxis(mask, axial, 0):
            share = plane.mean()
            if share <= self.empty_below:
                plane[:] = False
            elif share > self.close_above:
                plane[:] = ndimage.binary_fill_holes(_closed(plane, self.slice_closing))
        note = () if mask.any() else ("Otsu brain mask is empty",)
        volumes = {**subject.volumes, BRAIN: Volume(mask, grid.affine, "mask")}
        return subject.replace(*note, volumes=volumes)
