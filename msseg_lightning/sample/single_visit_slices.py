"""Stacks of slices of single visits in several contrasts, some of which are dropped (S23)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.sample.loader import PatchMaker
from msseg_lightning.sample.slices import SliceLoader, SliceMaker, SliceSampler
from msseg_lightning.sample.visit import LESIONS, Visit, VisitSource, visits_of


class SingleVisitSlices(SliceLoader):
    """Loader of stacks of one visit and the mask of all its lesions.

    Channels are the contrasts that ``image_names`` ends with: ``followup_t1`` is the T1 of either
    visit. One that a visit does not have is 0. Of the channels some are dropped at random, that is
    set to 0, so that the network answers to any of them alone; of those that a visit has one
    always stays. Name ``lesions`` as the sampler's target.

    Args:
        subjects: prepared pairs, or subjects of a single scan.
        sampler: which slices.
        augment: see ``SliceLoader``.
        visits: scans taken in place of the subjects' own; see ``sample.visit.visits_of``.
        image_names: of the stage, one per channel.
        target_names: of the stage; whichever they are, the target is ``lesions``.
        dropped: least and largest number of channels that are dropped.
        others: see ``SliceLoader``.

    Raises:
        MssegError: no scan has a mask of all its lesions (exit 3).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: SliceSampler,
        augment: PatchMaker | SliceMaker,
        visits: VisitSource | None = None,
        image_names: Sequence[str] = (),
        target_names: Sequence[str] = (),
        dropped: Sequence[int] = (1, 2),
        **others: Any,
    ) -> None:
        scans = visits_of(subjects, visits)
        super().__init__(scans, sampler, augment, image_names, (LESIONS,), **others)
        self.scans = scans
        least, most = dropped
        if not 0 <= least <= most < len(self.image_names):
            raise ValueError(f"dropped {list(dropped)} of {len(self.image_names)} channels")
        self.dropped = (least, most)

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one stack into its place of the batch."""
        spec = self.choose(step, element)
        names = self.names_of(self.scans[spec.subject])
        present = [channel for channel, name in enumerate(names) if name is not None]
        slab = np.empty((len(present), *images.shape[1:]), np.float32)
        chosen = [name for name in names if name is not None]
        made = self.cut(spec, chosen, step, element, slab, labels)
        images[:] = 0
        images[present] = slab
        images[self.drop(present, step, element)] = 0
        return made

    def names_of(self, visit: Visit) -> list[str | None]:
        """The image of each channel; None of a contrast that the visit does not have."""
        point = visit.scan.partition("_")[0]
        names = [f"{point}_{name.partition('_')[2]}" for name in self.image_names]
        return [name if name in visit.image_names else None for name in names]

    def drop(self, present: Sequence[int], step: int, element: int) -> list[int]:
        """Channels that are dropped of one element."""
        generator = keyed_generator(self.seed, "drop", step, element)
        order = [int(channel) for channel in generator.permutation(len(self.image_names))]
        count = int(generator.integers(self.dropped[0], self.dropped[1] + 1))
        stays = next(channel for channel in reversed(order) if channel in present)
        return [channel for channel in order[:count] if channel != stays]
