"""Images that compare the visits."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid

DIFFERENCE = "flair_difference"


@dataclasses.dataclass(frozen=True)
class Difference:
    """Add the difference image, follow-up minus baseline (S24).

    Args:
        name: of the new image.
    """

    name: str = DIFFERENCE

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        baseline, followup = (
            np.asarray(subject.volumes[name].data, np.float32) for name in (BASELINE, FOLLOWUP)
        )
        change = Volume(followup - baseline, grid.affine)
        return subject.replace(volumes={**subject.volumes, self.name: change})


RISES = ("baseline_rise", "followup_rise")


@dataclasses.dataclass(frozen=True)
class RiseProducts:
    """Add the products ``B * D`` and ``F * D`` of each visit and the positive difference (S05).

    ``D`` is the follow-up minus the baseline scan where that is positive, 0 elsewhere: a value, not
    a mask. The authors call the products attention maps.

    Args:
        names: of the new images, of the baseline first.
    """

    names: tuple[str, str] = RISES

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        scans = [
            np.asarray(subject.volumes[name].data, np.float32) for name in (BASELINE, FOLLOWUP)
        ]
        rise = np.maximum(scans[1] - scans[0], 0)
        made = {
            name: Volume(scan * rise, grid.affine)
            for name, scan in zip(self.names, scans, strict=True)
        }
        return subject.replace(volumes={**subject.volumes, **made})
