"""Overlapping patches on a regular grid, with balanced batches (S05, S25)."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BRAIN
from msseg_lightning.sample.loader import PatchLoader, PatchMaker
from msseg_lightning.sample.patch import PatchSpec, three


class GridSampler:
    """Draws boxes at fixed distances inside the bounding box of the brain.

    The last box of an axis is pushed back to end with the brain's box; where that is shorter than a
    box, one box has it in its middle.

    Args:
        size: of a box in voxels, one number or three.
        stride: between neighbours in voxels, one number or three.
    """

    def __init__(self, size: int | Sequence[int], stride: int | Sequence[int]) -> None:
        self.size, self.stride = three(size), three(stride)

    def starts(self, subject: PreparedSubject) -> NDArray[np.int64]:
        """(n, 3) first voxels of all boxes, in array order; they may lie outside the volume."""
        low, high = brain_box(subject)
        axes = []
        for first, end, size, stride in zip(low, high, self.size, self.stride, strict=True):
            last = int(end - first - size)
            if last <= 0:
                axes.append([int(first) - (size - int(end - first)) // 2])
            else:
                axes.append([int(first) + start for start in (*range(0, last, stride), last)])
        return np.array(list(itertools.product(*axes)), np.int64)

    def draw(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """Draw a random box of a random subject; ``GridLoader`` takes them in order instead."""
        index = int(generator.integers(len(subjects)))
        starts = self.starts(subjects[index])
        start = starts[generator.integers(len(starts))]
        return PatchSpec(index, self.centre(start), self.size, positive=False)

    def centre(self, start: NDArray[np.int64]) -> NDArray[np.float64]:
        """(3,) centre of a box."""
        return np.asarray(start + (np.asarray(self.size) - 1) / 2, np.float64)


def brain_box(subject: PreparedSubject) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel and one past the last of the brain's box, (3,) each; the volume without one."""
    if BRAIN in subject.mask_names:
        brain = subject.mask(BRAIN)
        if brain.any():
            lines = [np.flatnonzero(brain.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
            ends = np.array([(line[0], line[-1] + 1) for line in lines], np.int64)
            return ends[:, 0], ends[:, 1]
    return np.zeros(3, np.int64), np.array(subject.grid.shape, np.int64)


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Every box of all subjects, in a fixed order.

    Args:
        subject: (n,) index of the subject.
        centre: (n, 3) voxels.
    """

    subject: NDArray[np.int64]
    centre: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.subject)

    def chosen(self, rows: NDArray[np.bool_]) -> Boxes:
        """Select boxes by index."""
        return Boxes(self.subject[rows], self.centre[rows])


class GridLoader(PatchLoader):
    """Batches of which half contain new lesions; boxes without lesions are used once per epoch.

    Elements of the whole run are numbered; even numbers are positive, odd ones negative (both go
    to the other kind where one has none, e.g. without labels). Positives run through all positive
    boxes and their mirror images in an order shuffled anew each time, negatives through all
    negative boxes, none of which repeats before all have been used; half of the negatives are
    mirrored. So the batch of a step is a function of (seed, step), although the order never
    repeats.

    Args:
        sampler: the lattice; see ``PatchLoader`` for the other arguments.
        mirror: the left-right mirror images, of every positive and half of the negatives. Made
            here, since a positive box and its mirror image are two elements of one turn.
        patch_split: share of the positive and of the negative boxes that is trained on, drawn at
            random; the others are those of ``held_back``. Boxes of one patient are then on both
            sides, and overlap where the stride is below the size: what is measured on those held
            back is too good. None trains on all boxes.
    """

    sampler: GridSampler

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: GridSampler,
        augment: PatchMaker,
        mirror: bool = True,
        patch_split: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(subjects, sampler, augment, **others)
        if patch_split is not None and not 0 < patch_split < 1:
            raise ValueError(f"patch_split is {patch_split}, not between 0 and 1")
        self.mirror, self.patch_split, self._held_back = mirror, patch_split, False
        self._orders: dict[str, tuple[int, NDArray[np.int64]]] = {}

    @functools.cached_property
    def boxes(self) -> tuple[Boxes, Boxes]:
        """Positive and negative boxes of all subjects, of one side where ``patch_split`` is set."""
        subject, centre, positive = [], [], []
        for index, pair in enumerate(self.subjects):
            starts = self.sampler.starts(pair)
            subject.append(np.full(len(starts), index))
            centre.append(self.sampler.centre(starts))
            positive.append(self._holds_target(pair, starts))
        found = np.concatenate(positive)
        both = Boxes(np.concatenate(subject), np.concatenate(centre))
        positive_boxes, negative_boxes = both.chosen(found), both.chosen(~found)
        return self._side("positive", positive_boxes), self._side("negative", negative_boxes)

    def held_back(self) -> GridLoader | None:
        """Loader of the boxes that ``patch_split`` keeps from training; None without it."""
        if self.patch_split is None:
            return None
        other = copy.copy(self)
        other.__dict__.pop("boxes", None)  # of the side that is trained on
        other._orders, other._held_back = {}, True
        return other

    def _side(self, kind: str, boxes: Boxes) -> Boxes:
        if self.patch_split is None:
            return boxes
        order = keyed_generator(self.seed, "patch split", kind).permutation(len(boxes))
        trained = order < round(self.patch_split * len(boxes))
        return boxes.chosen(~trained if self._held_back else trained)

    def place(self, number: int) -> tuple[int, NDArray[np.float64], bool]:
        """Subject, centre and whether to mirror, of one element of the whole run."""
        positive, negative = self.boxes
        turn, wanted = divmod(number, 2)
        if not len(positive) or not len(negative):
            turn, wanted = number, int(not len(positive))
        if wanted == 0:
            twins = 2 * len(positive) if self.mirror else len(positive)
            round_, index = divmod(turn, twins)
            box = int(self._order("positive", round_, twins)[index])
            return self._element(positive, box % len(positive), box >= len(positive))
        round_, index = divmod(turn, len(negative))
        box = int(self._order("negative", round_, len(negative))[index])
        coin = keyed_generator(self.seed, "grid mirror", round_, box)
        return self._element(negative, box, self.mirror and coin.random() < 0.5)

    def element(
        self, step: int, element: int
    ) -> tuple[PreparedSubject, NDArray[np.float64], np.random.Generator]:
        """See ``PatchLoader``."""
        subject, centre, _ = self.place(step * self.elements_per_step + element)
        changes = keyed_generator(self.seed, "augment", step, element)
        return self.subjects[subject], centre, changes

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """See ``PatchLoader``; the mirror image is made of the finished patch."""
        name = super().make(step, element, images, labels)
        if self.place(step * self.elements_per_step + element)[2]:
            for patch in (images, labels):
                patch[:] = patch[:, ::-1].copy()  # axis 1 of (C, X, Y, Z) runs left to right
        return name

    def _element(
        self, boxes: Boxes, index: int, mirrored: bool
    ) -> tuple[int, NDArray[np.float64], bool]:
        return int(boxes.subject[index]), boxes.centre[index], mirrored

    def _order(self, kind: str, round_: int, count: int) -> NDArray[np.int64]:
        """Boxes of one epoch, shuffled; the latest epoch of each kind is cached."""
        known_round, order = self._orders.get(kind, (-1, np.zeros(0, np.int64)))
        if known_round != round_:
            order = keyed_generator(self.seed, "grid", kind, round_).permutation(count)
            self._orders[kind] = (round_, order)
        return order

    def _holds_target(self, pair: PreparedSubject, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) whether a voxel of the first target lies in each box."""
        if not self.target_names or self.target_names[0] not in pair.mask_names:
            return np.zeros(len(starts), bool)
        target = pair.mask(self.target_names[0])
        ends = starts + self.sampler.size
        return np.array(
            [
                target[
                    tuple(slice(max(0, a), max(0, b)) for a, b in zip(low, high, strict=True))
                ].any()
                for low, high in zip(starts, ends, strict=True)
            ],
            bool,
        )


class SliceGridLoader(GridLoader):
    """Boxes that are one voxel thick, as slices (B, C, H, W) (S05).

    The plane is that of the sampler's edges beside the 1: a size of [1, 64, 64] gives sagittal
    patches. See ``GridLoader`` for the arguments and for which boxes make up a batch.
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: GridSampler,
        augment: PatchMaker,
        **others: Any,
    ) -> None:
        super().__init__(subjects, sampler, augment, **others)
        if list(sampler.size).count(1) != 1:
            raise ValueError(f"a box of {sampler.size} is no slice: one edge must be 1")
        self.axis = sampler.size.index(1)

    def assemble(self, images: torch.Tensor, labels: torch.Tensor, made: Sequence[Any]) -> Batch:
        """See ``Loader``; the axis of one voxel is left out."""
        axis = 2 + self.axis
        return super().assemble(images.squeeze(axis), labels.squeeze(axis), made)
