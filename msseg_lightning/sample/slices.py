"""Slices, and stacks of neighbouring slices, from any of the three planes.

A 2D network sees what it would see on a radiologist's screen: one plane, one slice, perhaps its
neighbours. Planes are axes of the working grid, which is RAS+ after preprocessing: cutting across
axis 0 gives sagittal slices (Y, Z), axis 1 coronal ones (X, Z), axis 2 axial ones (X, Y).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.sample.loader import BatchMaker, Loader, PatchMaker
from msseg_lightning.sample.patch import lattice_centre

Plane = Literal["sagittal", "coronal", "axial"]
PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
Layout = Literal["channels", "depth"]


@dataclasses.dataclass(frozen=True)
class SliceSpec:
    """One slice to be cut.

    Args:
        subject: index among the subjects of the sampler's call.
        axis: of the volume, that the slice is cut across.
        voxel: (3,) in the slice; what the crop shows.
        positive: the slice was chosen for its lesion.
    """

    subject: int
    axis: int
    voxel: NDArray[np.int64]
    positive: bool


class SliceSampler:
    """Chooses slices, a share of them with lesion.

    Slices with lesion are drawn from one pool: each of them, of whatever patient and of the plane
    asked for, is equally likely, so patients with many of them are seen more often, as in an epoch
    over all slices. The others are any slice with brain, patients and slices equally often. Where
    no slice qualifies, any slice is taken.

    Args:
        size: of the crop in the plane, one number or two; a length beyond the slice takes it whole
            and pads it evenly with 0.
        positive_ratio: share of slices that were chosen for their lesion, in [0, 1].
        planes: any of sagittal, coronal, axial.
        lesion_voxels: least number of target voxels of a slice that counts as one with lesion.
        lesion_pixel: probability that the crop of such a slice is laid over a lesion voxel rather
            than over any pixel.
        anywhere: the chosen pixel lies anywhere in the crop; False puts it into the middle.
        target: mask whose voxels are lesion.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        positive_ratio: float = 0.5,
        planes: Sequence[Plane] = PLANES,
        lesion_voxels: int = 1,
        lesion_pixel: float = 1.0,
        anywhere: bool = False,
        target: str = TARGET,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else (int(edge) for edge in size)
        if min(height, width, lesion_voxels) < 1:
            raise ValueError(f"size {(height, width)} or lesion_voxels {lesion_voxels} below 1")
        if not 0 <= positive_ratio <= 1 or not 0 <= lesion_pixel <= 1:
            raise ValueError(f"positive_ratio {positive_ratio}, lesion_pixel {lesion_pixel}")
        if not planes or not set(planes) <= set(PLANES):
            raise ValueError(f"planes {list(planes)} are not some of {', '.join(PLANES)}")
        self.size = (height, width)
        self.positive_ratio, self.lesion_pixel = positive_ratio, lesion_pixel
        self.axes = tuple(PLANES.index(plane) for plane in planes)
        self.lesion_voxels, self.anywhere, self.target = lesion_voxels, anywhere, target
        self._tables: dict[tuple[str, str, int, int], NDArray[np.int64]] = {}

    def draw(
        self,
        subjects: Sequence[PreparedSubject],
        axis: int,
        positive: bool,
        generator: np.random.Generator,
    ) -> SliceSpec:
        """One slice across an axis, from a generator keyed by (seed, step, element)."""
        if positive:
            found = [self._slices(subject, self.target, axis) for subject in subjects]
            counts = np.array([len(slices) for slices in found])
            if counts.sum():
                pick = int(generator.integers(counts.sum()))
                index = int(np.searchsorted(counts.cumsum(), pick, side="right"))
                number = int(found[index][pick - counts[:index].sum()])
                voxel = self._lesion_pixel(subjects[index], axis, number, generator)
                return SliceSpec(index, axis, voxel, positive=True)
        index = int(generator.integers(len(subjects)))
        subject = subjects[index]
        slices = self._slices(subject, BRAIN, axis)
        if len(slices):
            voxel = _any_in(subject.voxels(BRAIN), axis, int(generator.choice(slices)), generator)
        else:
            voxel = generator.integers(subject.grid.shape)
        return SliceSpec(index, axis, voxel, positive=False)

    def crop(
        self, spec: SliceSpec, shape: tuple[int, ...], depth: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
        """Centre and size of the slab of ``depth`` slices around a chosen slice."""
        height, width = self.size
        voxel = spec.voxel.copy()
        in_plane = [axis for axis in range(3) if axis != spec.axis]
        if self.anywhere:
            for axis, edge in zip(in_plane, self.size, strict=True):
                # the first voxel of the crop is voxel - edge // 2
                voxel[axis] += edge // 2 - int(generator.integers(edge))
        size = [height, width]
        size.insert(spec.axis, depth)
        x, y, z = size
        centre = lattice_centre(voxel, (x, y, z), (shape[0], shape[1], shape[2]))
        centre[spec.axis] = spec.voxel[spec.axis]  # stacks may reach over the end of the volume
        return centre, (x, y, z)

    def _lesion_pixel(
        self, subject: PreparedSubject, axis: int, number: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        if generator.random() < self.lesion_pixel:
            return _any_in(subject.voxels(self.target), axis, number, generator)
        voxel = generator.integers(subject.grid.shape)
        voxel[axis] = number
        return voxel

    def _slices(self, subject: PreparedSubject, mask: str, axis: int) -> NDArray[np.int64]:
        """Numbers of the slices that qualify; counted once per subject."""
        least = self.lesion_voxels if mask == self.target else 1
        key = (str(subject.folder), mask, axis, least)
        known = self._tables.get(key)
        if known is None:
            voxels = subject.voxels(mask)[:, axis]
            known = np.flatnonzero(np.bincount(voxels, minlength=1) >= least)
            self._tables[key] = known
        return known


def _any_in(
    voxels: NDArray[np.int32], axis: int, number: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """A random voxel in a slice."""
    inside = np.flatnonzero(voxels[:, axis] == number)
    return voxels[inside[int(generator.integers(len(inside)))]].astype(np.int64)


@runtime_checkable
class SliceMaker(Protocol):
    """Cuts and augments one stack in its own plane; ``augment.slices.SliceAugment`` is one."""

    def fill_slices(
        self,
        subject: PreparedSubject,
        axis: int,
        voxel: NDArray[np.int64],
        anywhere: bool,
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: NDArray[np.float32],
        labels: NDArray[np.float32],
    ) -> Any:
        """Write images (C, depth, H, W) and the centre slice's labels (L, H, W)."""


class SliceLoader(Loader):
    """Batches of slices that mix planes and patients.

    Of every three successive elements each lies in another plane (with three planes), and of every
    batch the share ``positive_ratio``, rounded up or down, was chosen for its lesion; which ones is
    drawn. A batch is a function of (seed, step).

    A maker of 3D patches (``augment.fused.FusedAugment``) cuts the slice out of a volume that was
    rotated and deformed in 3D around it; one of stacks works in the plane.

    Args:
        subjects: prepared pairs; they stay on disk.
        sampler: which slices.
        augment: cuts and changes them.
        depth: neighbouring slices per visit, odd; the target is that of the middle one. Slices
            beyond the volume are 0.
        layout: ``channels`` makes images (B, visits x depth, H, W), the slices of the first image
            first: [B(k-1), B(k), B(k+1), F(k-1), F(k), F(k+1)]; ``depth`` keeps
            (B, visits, depth, H, W) for networks that convolve across slices.
        others: see ``Loader``.

    ``Batch.target`` is (B, targets, H, W).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: SliceSampler,
        augment: PatchMaker | SliceMaker,
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        depth: int = 1,
        layout: Layout = "channels",
        **others: Any,
    ) -> None:
        super().__init__(subjects, image_names, target_names, **others)
        if depth < 1 or depth % 2 == 0:
            raise ValueError(f"a stack of {depth} slices has no middle one")
        if layout not in ("channels", "depth"):
            raise ValueError(f"layout {layout!r} is not channels or depth")
        if isinstance(augment, BatchMaker):
            raise ValueError("slices are cut one by one; take a maker of single patches")
        self.sampler, self.augment = sampler, augment
        self.depth, self.layout = depth, layout

    def choose(self, step: int, element: int) -> SliceSpec:
        """The slice of one element, numbered across ranks."""
        axes, ratio = self.sampler.axes, self.sampler.positive_ratio
        turn, place = divmod(element, len(axes))
        order = keyed_generator(self.seed, "plane", step, turn).permutation(len(axes))
        start = keyed_generator(self.seed, "share", step).random()
        # of successive elements, every (1 / ratio)-th one passes a whole number
        positive = np.floor((element + 1) * ratio + start) > np.floor(element * ratio + start)
        generator = keyed_generator(self.seed, "sample", step, element)
        axis = axes[int(order[place])]
        return self.sampler.draw(self.subjects, axis, bool(positive), generator)

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one element's images and labels."""
        labels = len(self.target_names) + len(self.extra_names)
        images = (len(self.image_names), self.depth, *self.sampler.size)
        return images, (labels, *self.sampler.size)

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one stack into its place of the batch."""
        spec = self.choose(step, element)
        return self.cut(spec, self.image_names, step, element, images, labels)

    def cut(
        self,
        spec: SliceSpec,
        image_names: Sequence[str],
        step: int,
        element: int,
        images: NDArray[np.float32],
        labels: NDArray[np.float32],
    ) -> str:
        """Write the stack of a chosen slice; returns the id of its pair.

        Args:
            spec: the slice.
            image_names: of its subject, one per channel.
            step: global step.
            element: number of the element in this step, across ranks.
            images: (C, depth, H, W), filled.
            labels: (L, H, W), filled.
        """
        subject = self.subjects[spec.subject]
        names = self.target_names + self.extra_names
        changes = keyed_generator(self.seed, "augment", step, element)
        if isinstance(self.augment, SliceMaker):
            self.augment.fill_slices(
                subject,
                spec.axis,
                spec.voxel,
                self.sampler.anywhere,
                image_names,
                names,
                changes,
                images,
                labels,
            )
            return subject.id
        place = keyed_generator(self.seed, "crop", step, element)
        centre, size = self.sampler.crop(spec, subject.grid.shape, self.depth, place)
        slab = np.empty((len(image_names), *size), np.float32)
        masks = np.empty((len(names), *size), np.float32)
        self.augment.fill(subject, centre, image_names, names, changes, slab, masks)
        images[:] = np.moveaxis(slab, 1 + spec.axis, 1)
        labels[:] = np.moveaxis(masks, 1 + spec.axis, 1)[:, self.depth // 2]
        return subject.id

    def assemble(self, images: torch.Tensor, labels: torch.Tensor, made: Sequence[str]) -> Batch:
        """Arrange the slices for the network."""
        flat = images.flatten(1, 2) if self.layout == "channels" else images
        return super().assemble(flat, labels, made)
