"""Maps of the size of lesions, by which a loss weighs them (S20)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.lesion import Connectivity, label_lesions
from msseg_lightning.core.subject import LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, mask_of

INVERSE_SIZE = "_inverse_size"
"""What the name of a map ends with, after that of its mask."""


@dataclasses.dataclass(frozen=True)
class LesionSizes:
    """Add ``<mask>_inverse_size`` for some masks: 1 over the size of the lesion in voxels.

    Sizes are those in the whole volume, on the grid that this step is given: a patch that holds a
    part of a lesion is told the size of the whole. The value goes on around each lesion, up to
    ``around`` voxels, so that interpolation does not lower it at the lesion's border; elsewhere it
    is 0. Masks that a pair does not have are passed over.

    Args:
        masks: names.
        connectivity: what is one lesion.
        around: distance in voxels.
    """

    masks: tuple[str, ...] = ()
    connectivity: Connectivity = 6
    around: float = 2.0

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", tuple(self.masks))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        made = {
            f"{name}{INVERSE_SIZE}": Volume(
                self.inverse_sizes(mask_of(subject, name, self)), grid.affine, "probability"
            )
            for name in self.masks
            if name in subject.volumes
        }
        return subject.replace(volumes={**subject.volumes, **made})

    def inverse_sizes(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [0, 1]."""
        labels, count = label_lesions(mask, self.connectivity)
        if not count:
            return np.zeros(mask.shape, np.float32)
        shares = 1 / np.maximum(np.bincount(labels.ravel(), minlength=count + 1), 1)
        distance, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
        values = shares[labels[tuple(nearest)]]
        return np.where(distance <= self.around, values, 0).astype(np.float32)
