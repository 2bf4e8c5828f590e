"""A white matter mask from an atlas."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.atlas import affine_to_brain, mni152
from msseg_lightning.preprocess.space import inverse, resample_array
from msseg_lightning.preprocess.step import common_grid, image_names, mask_of

WHITE_MATTER = "white_matter"


@dataclasses.dataclass(frozen=True)
class WhiteMatterPrior:
    """Add the mask ``white_matter``: MNI152's probability of white matter above a threshold.

    The template is registered affinely to the mean of the visits (to the scan of a visit alone)
    inside the brain; nothing is moved. Intensities may be normalised already: they are counted
    from the darkest percent of the brain on.

    Args:
        threshold: on the probability, in [0, 1).
    """

    threshold: float = 0.5

    version: ClassVar[int] = 2

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        if not brain.any():
            nowhere = Volume(brain, grid.affine, "mask")
            return subject.replace(
                "the brain mask is empty: no white matter",
                volumes={**subject.volumes, WHITE_MATTER: nowhere},
            )
        total = np.zeros(grid.shape, np.float32)
        for name in image_names(subject):
            data = np.asarray(subject.volumes[name].data, np.float32)
            low, high = np.percentile(data[brain], [1, 95])
            total[brain] += np.maximum(data[brain] - low, 0) / max(float(high - low), 1e-6)
        way, failed = affine_to_brain(Volume(total, grid.affine), brain)
        atlas, back = mni152(), inverse(way)
        white = resample_array(atlas.white, atlas.affine, grid, "probability", back)
        mask = brain & (np.asarray(white) > self.threshold)
        return subject.replace(
            *([failed] if failed else []),
            volumes={**subject.volumes, WHITE_MATTER: Volume(mask, grid.affine, "mask")},
        )
