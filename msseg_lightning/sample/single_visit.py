"""Patches of one scan and all its lesions, taken from either visit of a pair (S18, stage 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.prepared import CANDIDATES, PreparedSubject
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
)
from msseg_lightning.sample.loader import BatchMaker, PatchLoader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler

SCAN = "visit_flair"
LESIONS = "visit_lesions"
VISITS = {BASELINE: BASELINE_LESIONS, FOLLOWUP: FOLLOWUP_LESIONS}


class Visit(PreparedSubject):
    """One visit of a prepared pair under names that do not tell which: same arrays, nothing copied.

    Attributes:
        layers: ``visit_flair``, ``visit_lesions`` and, where the pair has one, ``brain``.

    Args:
        pair: the prepared pair, or a subject of a single scan.
        image: its scan of this visit.
        lesions: mask of all lesions of this visit.
    """

    def __init__(self, pair: PreparedSubject, image: str, lesions: str) -> None:
        self.__dict__.update(pair.__dict__)
        self.layers = {SCAN: pair.layer(image), LESIONS: pair.layer(lesions)}
        if BRAIN in pair.layers:
            self.layers[BRAIN] = pair.layers[BRAIN]
        self._pair, self._lesions = pair, lesions

    def voxels(self, name: str, limit: int = CANDIDATES) -> NDArray[np.int32]:
        """See ``PreparedSubject``; candidate places are stored under the pair's own names."""
        return self._pair.voxels(self._lesions if name == LESIONS else name, limit)


class SingleVisitLoader(PatchLoader):
    """Every visit that has a mask of all its lesions is a sample of its own.

    Channels of a batch are one scan and the mask of all lesions in it; whether it was the first or
    the second of its pair makes no difference. Name ``visit_lesions`` as the sampler's target.

    Args:
        subjects: prepared pairs, or subjects of a single scan.
        sampler: where patches lie.
        augment: see ``PatchLoader``.
        visits: scan -> mask of all its lesions. A visit without its mask is left out.
        image_names: of the stage; whichever they are, training has one channel, ``visit_flair``.
        target_names: likewise; the target is ``visit_lesions``.
        others: see ``PatchLoader``.

    Raises:
        MssegError: no scan has a mask of all its lesions (exit 3).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: PatchSampler,
        augment: PatchMaker | BatchMaker,
        visits: Mapping[str, str] | None = None,
        image_names: Sequence[str] = (FOLLOWUP,),
        target_names: Sequence[str] = (FOLLOWUP_LESIONS,),
        **others: Any,
    ) -> None:
        masks = VISITS if visits is None else visits
        samples = [
            Visit(pair, image, lesions)
            for pair in subjects
            for image, lesions in masks.items()
            if image in pair.image_names and lesions in pair.mask_names
        ]
        if not samples:
            raise MssegError(
                Problem(
                    "data.no_visits",
                    "no training scan has a mask of all its lesions",
                    field=", ".join(masks.values()),
                    found=f"{len(subjects)} pairs without",
                    expected="scans with all lesions outlined, e.g. of MSSEG-2016",
                    remedy="give the stage a folder of such scans (stages.NAME.read), or train on "
                    "a simulated cohort, which has these masks",
                )
            )
        super().__init__(samples, sampler, augment, (SCAN,), (LESIONS,), **others)
