"""Cutting and augmentation of a patch on the CPU in one resampling.

Compiled code releases the interpreter lock, so plain threads fill one batch buffer; nothing is
copied between processes and nothing is cached in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.augment import intensity, resample
from msseg_lightning.augment.parameters import Intensity, Parameters, draw, visit_of
from msseg_lightning.augment.recipe import Recipe
from msseg_lightning.core.per_thread import PerThread
from msseg_lightning.core.prepared import PAIR, Layer, PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Grid

Images = NDArray[np.float32]
_NO_NODES = np.zeros((0, 0, 0, 3), np.float32)
_NO_BIAS = np.zeros((0, 0, 0), np.float32)


class FusedAugment:
    """Cuts and augments patches by compiled CPU code.

    Args:
        recipe: what may happen; the empty recipe cuts plain patches.
    """

    def __init__(self, recipe: Recipe | None = None) -> None:
        self.recipe = recipe if recipe is not None else Recipe()
        self._table = intensity.normal_table()
        self._local = PerThread()

    def fill(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: Images,
        labels: Images,
    ) -> Parameters:
        """Draw parameters and write one augmented patch.

        Args:
            subject: where from.
            centre: (3,) voxels; a patch of even size lies on the lattice when centred on a half.
            image_names: images, one per channel.
            label_names: masks or soft labels, one per channel.
            generator: keyed by what the patch is for.
            images: (C, X, Y, Z) float32, C-contiguous, filled.
            labels: (L, X, Y, Z) float32, filled; masks stay 0 or 1.

        Returns:
            What was drawn.
        """
        size = images.shape[1:]
        visits = [visit_of(name) for name in image_names]
        parameters = draw(self.recipe, subject.grid, size, visits, generator)
        self.apply(subject, centre, image_names, label_names, parameters, images, labels)
        return parameters

    def apply(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        parameters: Parameters,
        images: Images,
        labels: Images,
    ) -> None:
        """Write one patch with given parameters."""
        size = images.shape[1:]
        self._cut(subject, centre, image_names, label_names, parameters, images, labels)
        for channel, name in enumerate(image_names):
            self._intensity(parameters.visits[visit_of(name)], channel, images[channel], size)

    def alter(
        self,
        images: Images,
        image_names: Sequence[str],
        grid: Grid,
        generator: np.random.Generator,
    ) -> Parameters:
        """Draw parameters and change the intensities of a given patch.

        Args:
            images: (C, X, Y, Z) float32, C-contiguous, changed in place; nothing moves.
            image_names: one per channel; what comes before the first underscore is the visit.
            grid: whose axes the patch has.
            generator: keyed by what the patch is for.

        Returns:
            What was drawn.
        """
        size = images.shape[1:]
        visits = [visit_of(name) for name in image_names]
        parameters = draw(self.recipe, grid, size, visits, generator)
        for channel, name in enumerate(image_names):
            self._intensity(parameters.visits[visit_of(name)], channel, images[channel], size)
        return parameters

    def _cut(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        parameters: Parameters,
        images: Images,
        labels: Images,
    ) -> None:
        size = images.shape[1:]
        origin = parameters.origin(np.asarray(centre, float), size)
        outputs: dict[str, Images] = {}
        repeated: list[tuple[Images, str]] = []
        for name, out in zip((*image_names, *label_names), (*images, *labels), strict=True):
            if name in outputs:
                repeated.append((out, name))
            else:
                outputs[name] = out
        self._cut_once(subject, origin, parameters, outputs, size)
        for out, name in repeated:
            out[:] = outputs[name]

    def _cut_once(
        self,
        subject: PreparedSubject,
        origin: NDArray[np.float64],
        parameters: Parameters,
        outputs: dict[str, Images],
        size: tuple[int, ...],
    ) -> None:
        layers = {name: subject.layer(name) for name in outputs}
        if parameters.nodes is None and _on_lattice(origin, parameters.matrix):
            for name, layer in layers.items():
                _copy(subject.array(layer.file), layer, origin, parameters.matrix, outputs[name])
            return
        matrix = np.ascontiguousarray(parameters.matrix)
        nodes = _NO_NODES if parameters.nodes is None else parameters.nodes
        packed = [name for name, layer in layers.items() if layer.file == PAIR]
        if len(packed) > 1:
            pair = [subject.layers[BASELINE], subject.layers[FOLLOWUP]]
            words = subject.array(PAIR)
            resample.resample_pair(
                words,
                resample.overlapping(words),
                origin,
                matrix,
                nodes,
                np.array([layer.zero for layer in pair], np.float32),
                np.array([layer.scale for layer in pair], np.float32),
                *(
                    outputs[name] if name in outputs else self._spare(f"unused {name}", size)
                    for name in (BASELINE, FOLLOWUP, TARGET)
                ),
            )
        for name, layer in layers.items():
            if layer.file != PAIR or len(packed) == 1:
                resample.resample_layer(
                    subject.array(layer.file),
                    origin,
                    matrix,
                    nodes,
                    layer.shift,
                    layer.bits,
                    float(layer.zero),
                    layer.scale,
                    layer.kind == "mask",
                    outputs[name],
                )

    def _intensity(
        self, values: Intensity, channel: int, image: Images, size: tuple[int, ...]
    ) -> None:
        if values.thick_voxels > 1:
            matrix = _slice_matrix(
                size[values.thick_axis], values.thick_voxels, values.thick_interpolate
            )
            moved = np.ascontiguousarray(np.moveaxis(image, values.thick_axis, 0))
            result = np.empty_like(moved)
            planes = len(moved)
            intensity.along_first(moved.reshape(planes, -1), matrix, result.reshape(planes, -1))
            image[:] = np.moveaxis(result, 0, values.thick_axis)
        if any(values.blur_sigma):
            kernels = [intensity.gaussian(sigma) for sigma in values.blur_sigma]
            intensity.blur(image, self._spare("blur", size), *kernels)
        if values.sharpen_amount:
            blurred = self._spare("sharpen", size)
            blurred[:] = image
            kernel = intensity.gaussian(values.sharpen_sigma)
            intensity.blur(blurred, self._spare("blur", size), kernel, kernel, kernel)
            intensity.unsharp(image.reshape(-1), blurred.reshape(-1), values.sharpen_amount)
        if values.noise_sd:
            # images of one visit share parameters, never noise
            seed = (values.noise_seed + 0x9E3779B1 * channel) & 0xFFFFFFFF
            intensity.add_noise(image.reshape(-1), self._table, seed, values.noise_sd)
        if values.gamma != 1 or values.bias is not None or values.scale != 1 or values.shift:
            low, high = intensity.extent(image.reshape(-1)) if values.gamma != 1 else (0.0, 1.0)
            intensity.point(
                image,
                values.gamma,
                low,
                high,
                *(_legendre(length) for length in size),
                _NO_BIAS if values.bias is None else values.bias.astype(np.float32),
                values.scale,
                values.shift,
            )

    def _spare(self, purpose: str, size: tuple[int, ...]) -> Images:
        """A buffer of this thread."""
        arrays: dict[str, Images] = self._local.__dict__.setdefault("arrays", {})
        if purpose not in arrays or arrays[purpose].shape != size:
            arrays[purpose] = np.empty(size, np.float32)
        return arrays[purpose]


@functools.lru_cache(maxsize=64)
def _legendre(length: int) -> NDArray[np.float32]:
    return intensity.legendre(length)


@functools.lru_cache(maxsize=64)
def _slice_matrix(length: int, thickness: int, interpolate: bool) -> NDArray[np.float32]:
    return intensity.slice_matrix(length, thickness, interpolate)


def _on_lattice(origin: NDArray[np.float64], matrix: NDArray[np.float64]) -> bool:
    """Whether every patch voxel is a voxel of the volume (or outside)."""
    whole = np.rint(matrix)
    return bool(
        np.abs(matrix - whole).max() < 1e-9
        and np.array_equal(np.abs(whole).sum(0), np.ones(3))
        and np.array_equal(np.abs(whole).sum(1), np.ones(3))
        and np.abs(origin - np.rint(origin)).max() < 1e-6
    )


def _copy(
    words: NDArray[Any],
    layer: Layer,
    origin: NDArray[np.float64],
    matrix: NDArray[np.float64],
    out: Images,
) -> None:
    steps = np.array([words.shape[1] * words.shape[2], words.shape[2], 1])
    start = np.rint(origin).astype(np.int64)
    whole = np.rint(matrix).astype(np.int64)
    low, high = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for axis in range(3):  # of the patch
        source = int(np.abs(whole[:, axis]).argmax())
        last = words.shape[source] - 1
        if whole[source, axis] > 0:
            bounds = -start[source], last - start[source] + 1
        else:
            bounds = start[source] - last, start[source] + 1
        low[axis], high[axis] = np.clip(bounds, 0, out.shape[axis])
    resample.copy_layer(
        words,
        int(start @ steps),
        steps @ whole,
        low,
        high,
        layer.shift,
        layer.bits,
        float(layer.zero),
        layer.scale,
        out,
    )
