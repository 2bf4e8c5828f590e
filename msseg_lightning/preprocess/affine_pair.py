"""Affine registration of the baseline to the follow-up."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LoadedSubject
from msseg_lightning.preprocess.register import OF_BASELINE, linear_registration
from msseg_lightning.preprocess.space import MaskRule, resample_volume
from msseg_lightning.preprocess.step import common_grid


@dataclasses.dataclass(frozen=True)
class AffineRegistration:
    """Move the baseline onto the follow-up of a pair by an affine (S22).

    Found by mutual information. The follow-up, where predictions belong, stays as it is; lesion and
    brain masks of the baseline move with it. A visit alone stays as it is.

    Args:
        levels_mm: spacings at which the registration works, coarse to fine.
        mask_rule: how masks are resampled.
    """

    levels_mm: tuple[float, ...] = (5.0, 3.0)
    mask_rule: MaskRule = "linear_threshold"

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        if BASELINE not in subject.volumes:
            return subject
        grid = common_grid(subject, self)
        fixed, moving = subject.volumes[FOLLOWUP], subject.volumes[BASELINE]
        way = linear_registration(
            fixed, moving, "affine", [np.eye(4)], self.levels_mm, gradient_tolerance=1e-4
        )
        volumes = {
            name: resample_volume(volume, grid, way, self.mask_rule)
            if name in OF_BASELINE
            else volume
            for name, volume in subject.volumes.items()
        }
        return subject.replace("baseline moved onto the follow-up by an affine", volumes=volumes)
