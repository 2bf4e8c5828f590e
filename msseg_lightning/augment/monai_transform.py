"""Augmentation by MONAI transforms, for operations that the fused engines lack.

MONAI's transforms draw from a random state of their own, which is set from the patch's generator
here, so a batch depends on its step only. ``augment.torchio_transform``
does the same for TorchIO.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.per_thread import PerThread
from msseg_lightning.core.prepared import PreparedSubject


class MonaiTransform:
    """Cut (and augment) with the fused engine, then apply a MONAI dictionary transform.

    Args:
        transform: random dictionary transform, or a ``Compose`` of such, on the keys ``images``
            (C, X, Y, Z) and ``labels`` (L, X, Y, Z); it must keep the size of the patch.
        first: makes the patch.
        per_image: apply it to each image apart, with its own draws; it then sees no labels.
    """

    def __init__(
        self, transform: Any, first: FusedAugment | None = None, per_image: bool = False
    ) -> None:
        self.transform, self.per_image = transform, per_image
        self.first = first if first is not None else FusedAugment()
        self._local = PerThread()

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
        """Write one patch; see ``FusedAugment.fill``.

        Raises:
            ValueError: the transform changed the size.
        """
        self.first.fill(subject, centre, image_names, label_names, generator, images, labels)
        if not hasattr(self._local, "transform"):  # it is stateful: every thread has its own
            self._local.transform = copy.deepcopy(self.transform)
        transform = self._local.transform
        transform.set_random_state(seed=int(generator.integers(1 << 32)))
        if self.per_image:
            for image in images:
                image[:] = np.asarray(transform({"images": torch.tensor(image[None])})["images"][0])
            return
        result = transform({"images": torch.tensor(images), "labels": torch.tensor(labels)})
        for name, out in (("images", images), ("labels", labels)):
            if tuple(result[name].shape) != out.shape:
                found = tuple(result[name].shape)
                raise ValueError(f"{name} have shape {found} after MONAI, expected {out.shape}")
            out[:] = np.asarray(result[name])
