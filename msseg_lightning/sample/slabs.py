"""Slabs of neighbouring slices, those with lesions as they are and mirrored (S26)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.sample.loader import BatchMaker, Loader, PatchMaker
from msseg_lightning.sample.slices import SliceSampler, SliceSpec


class SlabLoader(Loader):
    """Batches of slabs as they would come from a list of all of them, drawn at random.

    The list has every slab that holds lesion twice, as it is and mirrored, and a share of the
    slabs of the brain that hold none. So how often slabs with lesions come follows from the data.
    Without any lesion all slabs of the brain are equally likely. A batch is a function of
    (seed, step).

    Args:
        subjects: prepared pairs; they stay on disk.
        sampler: size of the crop, plane and mask; its ``positive_ratio`` and ``planes`` beyond the
            first are not looked at.
        augment: cuts patches, as ``augment.fused.FusedAugment``.
        depth: slices of a slab, odd; slices beyond the volume are 0.
        others: share of the slabs without lesion that are in the list, in [0, 1].
        mirror_axis: of the volume; 0 mirrors left and right.
        settings: see ``Loader``.

    ``Batch.images`` are (B, images, depth, H, W), ``Batch.target`` (B, targets, depth, H, W).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: SliceSampler,
        augment: PatchMaker,
        depth: int,
        others: float,
        mirror_axis: int = 0,
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        **settings: Any,
    ) -> None:
        super().__init__(subjects, image_names, target_names, **settings)
        if depth < 1 or depth % 2 == 0 or not 0 <= others <= 1:
            raise ValueError(f"depth {depth} is not odd, or others {others} not in [0, 1]")
        if isinstance(augment, BatchMaker):
            raise ValueError("slabs are cut one by one; take a maker of single patches")
        self.axis = sampler.axes[0]
        if mirror_axis not in (0, 1, 2) or mirror_axis == self.axis:
            raise ValueError(f"axis {mirror_axis} is not one of the slices'")
        self.sampler, self.augment, self.depth = sampler, augment, depth
        self.mirror_axis = mirror_axis
        # (subject, number of the middle slice)
        self.lesional, self.plain = self._slabs()
        copies, rest = 2 * len(self.lesional), others * len(self.plain)
        self.lesional_share = copies / (copies + rest) if copies else 0.0

    def _slabs(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """All slabs with a voxel of lesion, and those of the brain without."""
        lesional, plain = [], []
        for index, subject in enumerate(self.subjects):
            length = subject.grid.shape[self.axis]
            held = np.zeros(length, bool)
            if self.sampler.target in subject.mask_names:
                for number in np.unique(subject.voxels(self.sampler.target)[:, self.axis]):
                    held[max(0, number - self.depth // 2) : number + self.depth // 2 + 1] = True
            brain = np.zeros(length, bool)
            if BRAIN in subject.mask_names:
                brain[np.unique(subject.voxels(BRAIN)[:, self.axis])] = True
            brain |= not brain.any()
            lesional += [(index, int(number)) for number in np.flatnonzero(held)]
            plain += [(index, int(number)) for number in np.flatnonzero(brain & ~held)]
        return lesional, plain

    def choose(self, step: int, element: int) -> tuple[SliceSpec, bool]:
        """The middle slice of one element, and whether it is mirrored."""
        generator = keyed_generator(self.seed, "sample", step, element)
        positive = bool(generator.random() < self.lesional_share)
        slabs = self.lesional if positive or not self.plain else self.plain
        index, number = slabs[int(generator.integers(len(slabs)))]
        subject = self.subjects[index]
        voxel = np.array([edge // 2 for edge in subject.grid.shape])
        voxel[self.axis] = number
        if positive:  # a crop that is smaller than the slice shows the lesion
            voxels = subject.voxels(self.sampler.target)
            near = voxels[abs(voxels[:, self.axis] - number) <= self.depth // 2]
            voxel = near[int(generator.integers(len(near)))].astype(np.int64)
            voxel[self.axis] = number
        mirrored = positive and bool(generator.random() < 0.5)
        return SliceSpec(index, self.axis, voxel, positive), mirrored

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one element's images and labels."""
        slab = (self.depth, *self.sampler.size)
        labels = len(self.target_names) + len(self.extra_names)
        return (len(self.image_names), *slab), (labels, *slab)

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one slab into its place of the batch."""
        spec, mirrored = self.choose(step, element)
        subject = self.subjects[spec.subject]
        names = self.target_names + self.extra_names
        place = keyed_generator(self.seed, "crop", step, element)
        centre, size = self.sampler.crop(spec, subject.grid.shape, self.depth, place)
        slab = np.empty((len(images), *size), np.float32)
        masks = np.empty((len(names), *size), np.float32)
        changes = keyed_generator(self.seed, "augment", step, element)
        self.augment.fill(subject, centre, self.image_names, names, changes, slab, masks)
        for made, kept in ((slab, images), (masks, labels)):
            turned = np.flip(made, 1 + self.mirror_axis) if mirrored else made
            kept[:] = np.moveaxis(turned, 1 + self.axis, 1)
        return subject.id
