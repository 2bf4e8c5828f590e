"""Cutting and augmentation of stacks of slices in their own plane."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.augment import slice_intensity
from msseg_lightning.augment.parameters import visit_of
from msseg_lightning.augment.slice_map import SliceMap, draw_crop, draw_map
from msseg_lightning.augment.slice_recipe import SliceRecipe
from msseg_lightning.core.prepared import Layer, PreparedSubject

Array = NDArray[np.float32]


class SliceAugment:
    """Cuts and augments stacks of slices by one interpolation in the plane.

    The pixels of the crop are followed back to the slice, the smallest box around them is read,
    and every slice of it is interpolated linearly (0 outside the volume). Masks are cut at one
    half, soft labels are not.

    Args:
        recipe: what may happen; the empty recipe cuts plain crops.
    """

    def __init__(self, recipe: SliceRecipe | None = None) -> None:
        self.recipe = recipe if recipe is not None else SliceRecipe()

    def fill_slices(
        self,
        subject: PreparedSubject,
        axis: int,
        voxel: NDArray[np.int64],
        anywhere: bool,
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: Array,
        labels: Array,
    ) -> SliceMap:
        """Draw parameters and write one stack.

        Args:
            subject: where from.
            axis: that slices are cut across.
            voxel: (3,) in the middle slice; the crop is laid over it.
            anywhere: the voxel lies anywhere in the crop; False puts it into the middle.
            image_names: images; those of one visit share intensity draws.
            label_names: masks or soft labels.
            generator: keyed by what the stack is for.
            images: (C, depth, H, W) float32, filled.
            labels: (L, H, W) float32, filled with the middle slice's.

        Returns:
            The spatial part of what was drawn, without flips.
        """
        size = images.shape[2:]
        plane = [other for other in range(3) if other != axis]
        shape = [subject.grid.shape[other] for other in plane]
        spacing = [subject.grid.spacing_mm[other] for other in plane]
        where = draw_map(self.recipe, shape, spacing, size, generator)
        anchor = [int(voxel[other]) for other in plane]
        canvas = draw_crop(self.recipe, where, anchor, anywhere, size, generator)
        if generator.random() < self.recipe.flip:
            canvas = np.flip(canvas, int(generator.integers(2)))
        # drawn whatever the crop's shape, so that the draws that follow stay the same
        turn = generator.random() < self.recipe.transpose
        if turn and size[0] == size[1]:
            canvas = canvas.swapaxes(0, 1)
        self._sample(
            subject,
            axis,
            int(voxel[axis]),
            where.to_source(canvas),
            image_names,
            label_names,
            images,
            labels,
        )
        seeds = {
            visit: int(generator.integers(1 << 62))
            for visit in sorted({visit_of(name) for name in image_names})
        }
        for name, stack in zip(image_names, images, strict=True):
            own = np.random.Generator(np.random.Philox(seeds[visit_of(name)]))
            stack[:] = slice_intensity.apply(self.recipe, stack, own)
        return where

    @staticmethod
    def _sample(
        subject: PreparedSubject,
        axis: int,
        number: int,
        positions: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        images: Array,
        labels: Array,
    ) -> None:
        """Interpolate at (H, W, 2) positions of the plane."""
        depth = images.shape[1]
        lattice = subject.grid.shape
        box = [slice(0), slice(0), slice(0)]
        low, high = number - depth // 2, number + depth // 2 + 1
        first = max(0, low)
        box[axis] = slice(first, min(lattice[axis], high))
        origin = []
        for place, other in enumerate(other for other in range(3) if other != axis):
            start = min(max(0, math.floor(positions[..., place].min())), lattice[other] - 1)
            stop = math.ceil(positions[..., place].max()) + 1
            box[other] = slice(start, max(start + 1, min(lattice[other], stop)))
            origin.append(start)
        within = (box[0], box[1], box[2])
        gather = _Bilinear(
            positions - origin, [box[o].stop - box[o].start for o in range(3) if o != axis]
        )
        images[:] = 0
        stacks = np.moveaxis(subject.patch(image_names, within), 1 + axis, 1)
        for image, stack in zip(images, stacks, strict=True):
            for offset, plane in enumerate(stack, start=first - low):
                image[offset] = gather(plane)
        middle = list(within)
        middle[axis] = slice(number, number + 1)
        for label, name in zip(labels, label_names, strict=True):
            layer = subject.layer(name)
            words = subject.array(layer.file)[tuple(middle)].squeeze(axis)
            values = gather(_decoded(words, layer))
            label[:] = values > 0.5 if layer.kind == "mask" else values


class _Bilinear:
    """Linear interpolation of planes at fixed positions; 0 outside.

    Args:
        positions: (H, W, 2) pixels.
        shape: (2,) of the planes.
    """

    def __init__(self, positions: NDArray[np.float64], shape: Sequence[int]) -> None:
        corner = np.floor(positions)
        fraction = (positions - corner).astype(np.float32)
        start = corner.astype(np.int64)
        self.width = shape[1]
        self.parts: list[tuple[NDArray[np.int64], Array]] = []
        for row in (0, 1):
            for column in (0, 1):
                y, x = start[..., 0] + row, start[..., 1] + column
                weight = np.abs(1 - row - fraction[..., 0]) * np.abs(1 - column - fraction[..., 1])
                inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
                self.parts.append((np.where(inside, y * self.width + x, 0), weight * inside))

    def __call__(self, plane: NDArray[np.floating]) -> Array:
        flat = np.ascontiguousarray(plane, np.float32).ravel()
        total = np.zeros(self.parts[0][0].shape, np.float32)
        for place, weight in self.parts:
            total += flat[place] * weight
        return total


def _decoded(words: NDArray[np.unsignedinteger], layer: Layer) -> Array:
    """Labels between 0 and 1 out of stored words."""
    values = (words >> words.dtype.type(layer.shift)) & words.dtype.type((1 << layer.bits) - 1)
    return (values.astype(np.float32) - np.float32(layer.zero)) * np.float32(layer.scale)
