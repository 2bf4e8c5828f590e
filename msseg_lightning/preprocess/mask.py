"""Combining and applying brain masks."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from msseg_lightning.core.subject import BASELINE, BRAIN, TARGET, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import common_grid, mask_of

BASELINE_BRAIN = "baseline_brain"
FOLLOWUP_BRAIN = "followup_brain"


@dataclasses.dataclass(frozen=True)
class CombineMasks:
    """Add the mask ``brain``, combined from the brain masks of the two visits.

    Where the visits have no masks of their own, a ``brain`` that came with the data is kept; of a
    visit alone its own mask is the brain.

    Args:
        rule: ``union`` (the organisers), ``intersection`` (S22, S25), ``followup`` (S17, S18) or
            ``baseline`` (S02).
    """

    rule: Literal["union", "intersection", "followup", "baseline"] = "union"

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        if BASELINE_BRAIN not in subject.volumes and BRAIN in subject.volumes:
            return subject
        grid = common_grid(subject, self)
        second = mask_of(subject, FOLLOWUP_BRAIN, self)
        one = self.rule == "followup" and BASELINE_BRAIN not in subject.volumes
        alone = one or BASELINE not in subject.volumes
        first = second if alone else mask_of(subject, BASELINE_BRAIN, self)
        combined = {
            "union": first | second,
            "intersection": first & second,
            "followup": second,
            "baseline": first,
        }[self.rule]
        kept = {
            name: volume
            for name, volume in subject.volumes.items()
            if name not in (BASELINE_BRAIN, FOLLOWUP_BRAIN)
        }
        return subject.replace(volumes={**kept, BRAIN: Volume(combined, grid.affine, "mask")})


@dataclasses.dataclass(frozen=True)
class ApplyMask:
    """Set images to 0 outside a mask.

    Args:
        mask: its name. An empty mask leaves the images as they are, with a note.
        labels: also the other masks and soft labels (S17).
    """

    mask: str = BRAIN
    labels: bool = False

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        common_grid(subject, self)
        inside = mask_of(subject, self.mask, self)
        if not inside.any():
            return subject.replace(f"{self.mask} is empty: images not masked")
        volumes = dict(subject.volumes)
        for name, volume in subject.volumes.items():
            if volume.kind == "image":
                data = np.where(inside, volume.data, 0).astype(np.float32)
                volumes[name] = Volume(data, volume.affine)
            elif self.labels and name != self.mask:
                outside = np.zeros((), volume.data.dtype)
                data = np.where(inside, volume.data, outside)
                volumes[name] = Volume(data, volume.affine, volume.kind)
        return subject.replace(volumes=volumes)


@dataclasses.dataclass(frozen=True)
class ConsensusForRaters:
    """Use the consensus as mask of each rater whose mask is missing (S04).

    A pair without a consensus, as in prediction, stays as it is.

    Args:
        raters: how many masks ``new_lesions_rater1``, ``new_lesions_rater2`` ... there shall be.
    """

    raters: int = 4

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        names = [f"{TARGET}_rater{number}" for number in range(1, self.raters + 1)]
        missing = [name for name in names if name not in subject.volumes]
        if TARGET not in subject.volumes or not missing:
            return subject
        made = dict.fromkeys(missing, subject.volumes[TARGET])
        note = f"the consensus stands for {', '.join(missing)}"
        return subject.replace(note, volumes={**subject.volumes, **made})
