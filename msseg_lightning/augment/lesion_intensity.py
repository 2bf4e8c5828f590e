"""Random contrast of new lesions, without change of other voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import FOLLOWUP, TARGET


class LesionIntensity:
    """Cut (and augment) with the fused engine, then change the contrast of each new lesion (S02).

    The contrast of a voxel is its value less the mean of the tissue around its lesion, up to
    ``shell_voxels`` away. It is multiplied by a factor, drawn for each lesion, in the lesion's
    middle and by less towards its border: by ``1 + (factor - 1) * w``, where ``w`` is the lesion's
    mask after a Gaussian filter, 1 at its largest. Voxels outside the mask never change.

    Args:
        first: makes the patch.
        probability: of the operation, for a patch.
        factor: range; 1 changes nothing.
        sigma_voxels: of the filter.
        shell_voxels: thickness of the tissue compared with.
        image: that is changed.
        target: mask of the lesions.

    Lesions of the patch touch by faces, edges or corners. One without tissue around it in the patch
    stays as it is.
    """

    def __init__(
        self,
        first: FusedAugment | None = None,
        probability: float = 0.5,
        factor: tuple[float, float] = (0.7, 1.3),
        sigma_voxels: float = 1.0,
        shell_voxels: int = 2,
        image: str = FOLLOWUP,
        target: str = TARGET,
    ) -> None:
        if not 0 <= probability <= 1 or sigma_voxels <= 0 or shell_voxels < 1:
            raise ValueError(
                f"probability {probability}, sigma_voxels {sigma_voxels}, "
                f"shell_voxels {shell_voxels}: one is out of range"
            )
        self.first = first if first is not None else FusedAugment()
        self.probability, self.factor = probability, (float(factor[0]), float(factor[1]))
        self.sigma_voxels, self.shell_voxels = sigma_voxels, shell_voxels
        self.image, self.target = image, target

    def fill(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: NDArray[np.float32],
        labels: NDArray[np.float32],
    ) -> None:
        """Write one patch; see ``FusedAugment.fill``. Without the target nothing is changed."""
        self.first.fill(subject, centre, image_names, label_names, generator, images, labels)
        if generator.random() >= self.probability or self.target not in label_names:
            return
        lesion = labels[list(label_names).index(self.target)] > 0.5
        self.change(images[list(image_names).index(self.image)], lesion, generator)

    def change(
        self,
        image: NDArray[np.float32],
        lesion: NDArray[np.bool_],
        generator: np.random.Generator,
    ) -> None:
        """Change one image in place, every lesion by its own factor."""
        full = np.ones((3,) * image.ndim)
        numbered, count = ndimage.label(lesion, full)
        room = self.shell_voxels
        for number, box in enumerate(ndimage.find_objects(numbered, count), start=1):
            factor = generator.uniform(*self.factor)
            wide = tuple(slice(max(0, edge.start - room), edge.stop + room) for edge in box)
            own = numbered[wide] == number
            shell = ndimage.binary_dilation(own, full, iterations=room) & ~lesion[wide]
            if not shell.any():
                continue
            part = image[wide]
            weight = ndimage.gaussian_filter(own.astype(np.float32), self.sigma_voxels)
            change = (factor - 1) * weight / weight[own].max() * (part - part[shell].mean())
            part[own] += change[own]
