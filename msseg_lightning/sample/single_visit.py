"""Patches of one scan and all its lesions, taken from either visit of a pair (S18, stage 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import FOLLOWUP, FOLLOWUP_LESIONS
from msseg_lightning.sample.loader import BatchMaker, PatchLoader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler
from msseg_lightning.sample.visit import FLAIR, LESIONS, VisitSource, visits_of


class SingleVisitLoader(PatchLoader):
    """Loader of single visits that have a mask of all lesions.

    Channels of a batch are one scan and the mask of all lesions in it; whether it was the first or
    the second of its pair makes no difference. Name ``lesions`` as the sampler's target.

    Args:
        subjects: prepared pairs, or subjects of a single scan.
        sampler: where patches lie.
        augment: see ``PatchLoader``.
        visits: scans taken in place of the subjects' own; see ``visits_of``.
        image_names: of the stage; whichever they are, training has one channel, ``flair``.
        target_names: likewise; the target is ``lesions``.
        others: see ``PatchLoader``.

    Raises:
        MssegError: no scan has a mask of all its lesions (exit 3).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: PatchSampler,
        augment: PatchMaker | BatchMaker,
        visits: VisitSource | None = None,
        image_names: Sequence[str] = (FOLLOWUP,),
        target_names: Sequence[str] = (FOLLOWUP_LESIONS,),
        **others: Any,
    ) -> None:
        scans = visits_of(subjects, visits)
        super().__init__(scans, sampler, augment, (FLAIR,), (LESIONS,), **others)
