"""Windows around the candidates of an earlier network, true and false ones (S03)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.candidates import Candidates, Proposal, middle
from msseg_lightning.core.lesion import Connectivity
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.loader import Loader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler, lattice_centre, three

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AboveThreshold:
    """Proposer: the components of what an earlier network found, inside the region of another.

    Args:
        image: map of the pair that is cut, such as the probability of a new lesion.
        region: map of the pair outside of which nothing is proposed.
        threshold: on ``image``, which must be exceeded.
        region_threshold: on ``region``, which must be exceeded.
        connectivity: what is one candidate.
    """

    image: str
    region: str
    threshold: float = 0.5
    region_threshold: float = 0.5
    connectivity: Connectivity = 26

    def __call__(self, pair: PreparedSubject) -> Proposal:
        inside = pair.image(self.region) > self.region_threshold
        found = inside & (pair.image(self.image) > self.threshold)
        return Proposal(Candidates.of(found, pair.grid.spacing_mm, self.connectivity), inside)


class CandidateWindow(NamedTuple):
    """A window of the training table.

    Attributes:
        subject: index of the pair.
        number: of the candidate in its pair, or of the lesion that no candidate meets.
        voxel: (3,) in the middle of the window.
        voxels: size of the candidate.
        shared: voxels that it has in common with the target.
        missed: it is a lesion of the target that no candidate meets.
    """

    subject: int
    number: int
    voxel: NDArray[np.int64]
    voxels: int
    shared: int
    missed: bool = False


class CandidateWindowLoader(Loader):
    """Batches of windows around candidates, which are true where they meet the target.

    The table has every candidate of every pair: the false ones are the false positives of the
    network that proposed them. Lesions of the target that no candidate meets are added as true
    ones. ``Batch.images`` are the images and, as last channel, the candidates in the window (of a
    lesion that was added, the target); ``Batch.target`` is (B, 1), 1 for a true one.

    Args:
        subjects: prepared pairs with the images that ``propose`` reads.
        propose: finds the candidates.
        augment: cuts and changes a window, on the CPU.
        sampler: not used; part of what every loader is given.
        image_names: channels before that of the candidates.
        target_names: the first says which candidates are true.
        size: edge of the window in voxels.
        positive_ratio: share of true candidates among the windows, where there are both kinds.
        others: see ``Loader``.

    Raises:
        ValueError: there is neither a candidate nor a lesion.
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        propose: AboveThreshold,
        augment: PatchMaker,
        sampler: PatchSampler | None = None,
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        size: int | Sequence[int] = 32,
        positive_ratio: float = 0.5,
        **others: Any,
    ) -> None:
        super().__init__(subjects, image_names, target_names[:1], **others)
        if not 0 <= positive_ratio <= 1:
            raise ValueError(f"positive_ratio {positive_ratio} is not between 0 and 1")
        self.propose, self.augment, self.size = propose, augment, three(size)
        self.positive_ratio = positive_ratio
        self.windows = [
            window for index in range(len(self.subjects)) for window in self._windows_of(index)
        ]
        self.true = [window for window in self.windows if window.shared]
        self.false = [window for window in self.windows if not window.shared]
        if not self.windows:
            raise ValueError("no candidate and no lesion to cut windows around")
        if not self.false:
            log.warning("the candidates have no false positives to learn from")
        log.info("%d true and %d false candidates", len(self.true), len(self.false))

    def _windows_of(self, index: int) -> list[CandidateWindow]:
        pair = self.subjects[index]
        candidates, target = self.propose(pair).candidates, pair.mask(self.target_names[0])
        lesions = Candidates.of(target, pair.grid.spacing_mm, self.propose.connectivity)
        missed = lesions.select(lesions.count_in(candidates.mask) == 0)
        return [
            CandidateWindow(index, number, middle(box), int(voxels), int(shared), kind is missed)
            for kind in (candidates, missed)
            for number, (box, voxels, shared) in enumerate(
                zip(kind.boxes, kind.sizes, kind.count_in(target), strict=True), start=1
            )
        ]

    def table(self) -> list[dict[str, str | int]]:
        """What is trained on: a row for every window."""
        return [
            {
                "pair": self.subjects[window.subject].id,
                "patient": self.subjects[window.subject].patient,
                "from": "missed lesion" if window.missed else "candidate",
                "number": window.number,
                "voxels": window.voxels,
                "shared_with_target": window.shared,
                "label": int(window.shared > 0),
            }
            for window in self.windows
        ]

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Images and candidates; one number."""
        return (len(self.image_names) + 1, *self.size), (1,)

    def element(self, step: int, element: int) -> CandidateWindow:
        """The window of an element."""
        generator = keyed_generator(self.seed, "candidate window", step, element)
        wanted = self.true if generator.random() < self.positive_ratio else self.false
        pool = wanted or self.windows
        return pool[int(generator.integers(len(pool)))]

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one window and whether it is true; returns the id of its pair."""
        chosen = self.element(step, element)
        pair = self.subjects[chosen.subject]
        centre = lattice_centre(chosen.voxel, self.size, pair.grid.shape, inside=False)
        target = np.empty((1, *self.size), np.float32)
        changes = keyed_generator(self.seed, "augment", step, element)
        names = (*self.image_names, self.propose.image)
        self.augment.fill(pair, centre, names, self.target_names, changes, images, target)
        images[-1] = target[0] if chosen.missed else images[-1] > self.propose.threshold
        labels[0] = chosen.shared > 0
        return pair.id
