"""Batches of candidate boxes of different sizes (S22)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.candidates import CANDIDATES, Box, Candidates
from msseg_lightning.core.lesion import Connectivity
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.loader import Loader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler

log = logging.getLogger(__name__)

WITHIN = "within"
"""Name in ``Batch.extra``: 1 in the voxels of a box, 0 where it was padded."""


class CandidateBox(NamedTuple):
    """A candidate of a training pair.

    Attributes:
        subject: index of the pair.
        box: around the candidate, with its margin.
        true: it shares a voxel with the target.
        low: it lies below the tentorium, by its position.
    """

    subject: int
    box: Box
    true: bool
    low: bool


class CandidateBoxLoader(Loader):
    """Batches from a fixed training set of candidate boxes, shuffled anew in every epoch.

    The set has every true candidate and as many false ones, drawn once. Further boxes are drawn
    to it, of which most lie below the tentorium. Boxes of a batch are padded to the largest of
    them with zeros; ``extra["within"]`` tells which voxels belong to a box (``train.padded``).

    Args:
        subjects: prepared pairs with a mask of candidates.
        sampler: not used; part of what every loader is given.
        augment: cuts and changes a box, on the CPU.
        image_names: channels.
        target_names: the first says which candidates are true.
        region: the mask of candidates.
        margin: voxels by which a box is wider than its candidate on every side.
        connectivity: what is one candidate.
        further: number of further boxes, as a share of the others.
        infratentorial: share of them that lie below the tentorium; the rest is false and above.
        infratentorial_true: share of those below that are true.
        position: image by whose mean in a candidate its side of the tentorium is told.
        infratentorial_from: value of that image from which on it lies below.
        others: see ``Loader``.

    Raises:
        MssegError: no candidate of any pair is true (exit 3).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        augment: PatchMaker,
        sampler: PatchSampler | None = None,
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        region: str = CANDIDATES,
        margin: int = 2,
        connectivity: Connectivity = 26,
        further: float = 0.3,
        infratentorial: float = 0.85,
        infratentorial_true: float = 0.33,
        position: str = "neck_map",
        infratentorial_from: float = 0.65,
        **others: Any,
    ) -> None:
        super().__init__(subjects, image_names, target_names[:1], (WITHIN,), **others)
        self.augment = augment
        self.further, self.infratentorial = further, infratentorial
        self.infratentorial_true = infratentorial_true
        found: list[CandidateBox] = []
        for index, pair in enumerate(self.subjects):
            spacing = pair.grid.spacing_mm
            candidates = Candidates.of(pair.mask(region), spacing, connectivity, margin)
            true = candidates.count_in(pair.mask(self.target_names[0])) > 0
            place = _means(pair.image(position), candidates)
            found += [
                CandidateBox(index, box, bool(hit), bool(value > infratentorial_from))
                for box, hit, value in zip(candidates.boxes, true, place, strict=True)
            ]
        if not any(box.true for box in found):
            raise MssegError(
                Problem(
                    "sample.no_true_candidate",
                    "no candidate of any training pair shares a voxel with its target",
                    field=region,
                    found=f"{len(found)} candidates, none of them true",
                    expected="at least one",
                    remedy="propose more: preprocess.steps.candidates.opening_mm=0 "
                    "preprocess.steps.candidates.least_mm3=0",
                    exit_code=ExitCode.DATA,
                )
            )
        self.own, self.extra = self._chosen(found)
        self.boxes = [*self.own, *self.extra]
        log.info(
            "%d candidates; trained on %d and %d further ones",
            len(found),
            len(self.own),
            len(self.extra),
        )

    def _chosen(
        self, found: Sequence[CandidateBox]
    ) -> tuple[list[CandidateBox], list[CandidateBox]]:
        """The training set, and what is added to it."""
        generator = keyed_generator(self.seed, "candidate boxes")

        def draw(pool: list[CandidateBox], count: int) -> list[CandidateBox]:
            if not pool:
                return []
            drawn = generator.choice(len(pool), count, replace=count > len(pool))
            return [pool[index] for index in drawn]

        true = [box for box in found if box.true]
        false = [box for box in found if not box.true]
        own = [*true, *draw(false, len(true))]
        count = round(self.further * len(own))
        low = round(self.infratentorial * count)
        low_true = round(self.infratentorial_true * low)
        extra = [
            *draw([box for box in true if box.low], low_true),
            *draw([box for box in false if box.low], low - low_true),
            *draw([box for box in false if not box.low], count - low),
        ]
        return own, extra

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the largest box of the training set in every direction."""
        largest = _largest(self.boxes)
        return (len(self.image_names), *largest), (2, *largest)

    def element(self, step: int, element: int) -> CandidateBox:
        """The box of an element; every epoch sees each box of the set once."""
        epoch, place = divmod(step * self.elements_per_step + element, len(self.boxes))
        order = keyed_generator(self.seed, "candidate epoch", epoch).permutation(len(self.boxes))
        return self.boxes[order[place]]

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one box into the first corner of its place; returns the id of its pair."""
        chosen = self.element(step, element)
        pair, size = self.subjects[chosen.subject], _size(chosen.box)
        own = np.empty((len(self.image_names), *size), np.float32)
        target = np.empty((1, *size), np.float32)
        centre = np.array([(part.start + part.stop - 1) / 2 for part in chosen.box])
        generator = keyed_generator(self.seed, "augment", step, element)
        names = self.target_names
        self.augment.fill(pair, centre, self.image_names, names, generator, own, target)
        images[:], labels[:] = 0.0, 0.0
        corner = (slice(None), *(slice(0, edge) for edge in size))
        images[corner], labels[:1][corner], labels[1:][corner] = own, target, 1.0
        return pair.id

    def whole(self, step: int, first: int) -> Batch:
        """A batch that is as large as its largest box."""
        numbers = range(first, first + self.batch_size)
        largest = _largest([self.element(step, number) for number in numbers])
        images = torch.empty((self.batch_size, len(self.image_names), *largest))
        labels = torch.empty((self.batch_size, 2, *largest))
        made = [
            self.make(step, number, image.numpy(), label.numpy())
            for number, image, label in zip(numbers, images, labels, strict=True)
        ]
        return self.assemble(images, labels, made)


def _size(box: Box) -> tuple[int, int, int]:
    x, y, z = (part.stop - part.start for part in box)
    return x, y, z


def _largest(boxes: Sequence[CandidateBox]) -> tuple[int, ...]:
    return tuple(np.max([_size(box.box) for box in boxes], axis=0).tolist())


def _means(image: NDArray[np.float32], candidates: Candidates) -> NDArray[np.float64]:
    """(n,) mean of an image in each candidate."""
    labels = candidates.labels.ravel()
    sums = np.bincount(labels, weights=image.ravel(), minlength=len(candidates) + 1)[1:]
    return np.asarray(sums / np.maximum(candidates.sizes, 1))
