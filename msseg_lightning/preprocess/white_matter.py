"""Masks of white and grey matter from an atlas."""

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
GREY_MATTER = "grey_matter"


@dataclasses.dataclass(frozen=True)
class WhiteMatterPrior:
    """Add the mask ``white_matter``: MNI152's probability of white matter above a threshold.

    The template is registered affinely to the mean of the visits (to the scan of a visit alone)
    inside the brain; nothing is moved. Intensities may be normalised already: they are counted
    from the darkest percent of the brain on.

    Args:
        threshold: on the probability, in [0, 1).
        grey: on that of grey matter, for the mask ``grey_matter``; None makes no such mask.
    """

    threshold: float = 0.5
    grey: float | None = None

    version: ClassVar[int] = 2

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        thresholds = {WHITE_MATTER: self.threshold}
        if self.grey is not None:
            thresholds[GREY_MATTER] = self.grey
        if not brain.any():
            nowhere = dict.fromkeys(thresholds, Volume(brain, grid.affine, "mask"))
            note = "the brain mask is empty: no white matter"
            return subject.replace(note, volumes={**subject.volumes, **nowhere})
        total = np.zeros(grid.shape, np.float32)
        for name in image_names(subject):
            data = np.asarray(subject.volumes[name].data, np.float32)
            low, high = np.percentile(data[brain], [1, 95])
            total[brain] += np.maximum(data[brain] - low, 0) / max(float(high - low), 1e-6)
        way, failed = affine_to_brain(Volume(total, grid.affine), brain)
        atlas, back = mni152(), inverse(way)
        volumes = dict(subject.volumes)
        for name, threshold in thresholds.items():
            tissue = atlas.white if name == WHITE_MATTER else atlas.grey
            here = resample_array(tissue, atlas.affine, grid, "probability", back)
            mask = brain & (np.asarray(here) > threshold)
            volumes[name] = Volume(mask, grid.affine, "mask")
        return subject.replace(*([failed] if failed else []), volumes=volumes)
