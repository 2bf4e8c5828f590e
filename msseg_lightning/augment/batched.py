"""Augmentation of a whole batch on a device.

On a GPU the training set is uploaded once (4 bytes per voxel and pair) and loading disappears:
a batch is a handful of gathers and element-wise operations. Parameters, noise and order are those
of ``augment.fused``; results agree to rounding of float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from msseg_lightning.augment.intensity import gaussian, legendre, normal_table, slice_matrix
from msseg_lightning.augment.parameters import NODE_STEP, Intensity, Parameters, draw, visit_of
from msseg_lightning.augment.recipe import Recipe
from msseg_lightning.core.prepared import PreparedSubject

TOLERANCE = 1e-3
_SIGNED = {np.dtype(np.uint32): np.int32, np.dtype(np.uint16): np.int16}


class BatchedAugment:
    """Cuts and augments batches of patches by tensor operations on any device.

    Args:
        recipe: what may happen; the empty recipe cuts plain patches.
        device: where words are kept and batches made.
    """

    def __init__(self, recipe: Recipe | None = None, device: torch.device | str = "cpu") -> None:
        self.recipe = recipe if recipe is not None else Recipe()
        self.device = torch.device(device)
        self._words: dict[tuple[str, str], Tensor] = {}
        self._table = torch.from_numpy(normal_table()).to(self.device)

    def make(
        self,
        subjects: Sequence[PreparedSubject],
        centres: Sequence[NDArray[np.float64]],
        size: tuple[int, int, int],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generators: Sequence[np.random.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Draw parameters for every element and make the batch.

        Args:
            subjects: one per element.
            centres: (3,) voxels of each.
            size: of the patches.
            image_names: channels of the images.
            label_names: channels of the labels.
            generators: keyed by what each element is for.

        Returns:
            Images (B, C, X, Y, Z) and labels (B, L, X, Y, Z), float32 on the device.
        """
        visits = [visit_of(name) for name in image_names]
        drawn = [
            draw(self.recipe, subject.grid, size, visits, generator)
            for subject, generator in zip(subjects, generators, strict=True)
        ]
        return self.apply(subjects, centres, size, image_names, label_names, drawn)

    def apply(
        self,
        subjects: Sequence[PreparedSubject],
        centres: Sequence[NDArray[np.float64]],
        size: tuple[int, int, int],
        image_names: Sequence[str],
        label_names: Sequence[str],
        parameters: Sequence[Parameters],
    ) -> tuple[Tensor, Tensor]:
        """Make a batch with given parameters."""
        names = (*image_names, *label_names)
        values = []
        for subject, centre, drawn in zip(subjects, centres, parameters, strict=True):
            cells = self._cells(subject, centre, size, drawn)
            values.append(self._sample(subject, names, *cells))
        batch = torch.stack(values)
        channels = len(image_names)
        # the visits and channels of one element follow each other
        images = batch[:, :channels].reshape(-1, *size)
        operations = [p.visits[visit_of(name)] for p in parameters for name in image_names]
        places = [channel for _ in parameters for channel in range(channels)]
        self._intensity(images, operations, places)
        return images.view(-1, channels, *size), batch[:, channels:].contiguous()

    def _tensor(self, array: NDArray[np.floating] | Sequence[float]) -> Tensor:
        return torch.as_tensor(np.asarray(array, np.float32), device=self.device)

    def _cells(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        size: tuple[int, int, int],
        drawn: Parameters,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Flat indices (8, X, Y, Z) of corners, fractions (3, X, Y, Z), and what is inside."""
        steps = [torch.arange(length, device=self.device) for length in size]
        lattice = torch.stack(torch.meshgrid(*steps, indexing="ij")).double()
        matrix = torch.as_tensor(drawn.matrix, device=self.device)
        origin = torch.as_tensor(drawn.origin(np.asarray(centre, float), size), device=self.device)
        place = torch.einsum("ab,bxyz->axyz", matrix, lattice) + origin.view(3, 1, 1, 1)
        if drawn.nodes is not None:
            nodes = torch.as_tensor(drawn.nodes, device=self.device).permute(3, 0, 1, 2)[None]
            fine = [NODE_STEP * (count - 1) + 1 for count in nodes.shape[2:]]
            field = functional.interpolate(nodes, fine, mode="trilinear", align_corners=True)[0]
            place = place + field[:, : size[0], : size[1], : size[2]]
        last = torch.tensor(subject.grid.shape, device=self.device).view(3, 1, 1, 1) - 1
        inside = ((place >= -TOLERANCE) & (place <= last + TOLERANCE)).all(0)
        place = torch.minimum(place.clamp_min(0), last.double())
        low = torch.minimum(place.long(), (last - 1).clamp_min(0))
        high = torch.minimum(low + 1, last)
        _, ny, nz = subject.grid.shape
        corners = [
            (x * ny + y) * nz + z
            for x in (low[0], high[0])
            for y in (low[1], high[1])
            for z in (low[2], high[2])
        ]
        return torch.stack(corners), (place - low).float(), inside

    def _sample(
        self,
        subject: PreparedSubject,
        names: Sequence[str],
        corners: Tensor,
        fraction: Tensor,
        inside: Tensor,
    ) -> Tensor:
        """(C, X, Y, Z) values of the named volumes; one gather per stored array."""
        gathered: dict[str, Tensor] = {}
        out = []
        fx, fy, fz = fraction
        for name in names:
            layer = subject.layer(name)
            if layer.file not in gathered:
                gathered[layer.file] = self._upload(subject, layer.file)[corners].int()
            part = (gathered[layer.file] >> layer.shift) & ((1 << layer.bits) - 1)
            corner = part.float()
            along_z = torch.lerp(corner[0::2], corner[1::2], fz)
            along_y = torch.lerp(along_z[0::2], along_z[1::2], fy)
            value = (torch.lerp(along_y[0], along_y[1], fx) - layer.zero) * layer.scale
            value = torch.where(inside, value, 0.0)
            out.append((value >= 0.5).float() if layer.kind == "mask" else value)
        return torch.stack(out)

    def _upload(self, subject: PreparedSubject, file: str) -> Tensor:
        key = (str(subject.folder), file)
        if key not in self._words:
            words = subject.array(file)
            signed = words.view(_SIGNED.get(words.dtype, words.dtype))
            self._words[key] = torch.tensor(signed.reshape(-1), device=self.device)
        return self._words[key]

    def _intensity(
        self, images: Tensor, operations: Sequence[Intensity], places: Sequence[int]
    ) -> None:
        """All intensity operations on (N, X, Y, Z), in place."""
        size = images.shape[1:]
        for n, values in enumerate(operations):
            if values.thick_voxels > 1:
                axis = values.thick_axis
                matrix = slice_matrix(size[axis], values.thick_voxels, values.thick_interpolate)
                planes = torch.tensordot(self._tensor(matrix), images[n], dims=([1], [axis]))
                images[n] = planes.movedim(0, axis)
        chosen = [n for n, values in enumerate(operations) if any(values.blur_sigma)]
        if chosen:
            sigma = [operations[n].blur_sigma for n in chosen]
            images[chosen] = self._blurred(images[chosen], sigma)
        chosen = [n for n, values in enumerate(operations) if values.sharpen_amount]
        if chosen:
            amount = self._tensor([operations[n].sharpen_amount for n in chosen])
            some = images[chosen]
            soft = self._blurred(some, [(operations[n].sharpen_sigma,) * 3 for n in chosen])
            images[chosen] = some + amount.view(-1, 1, 1, 1) * (some - soft)
        chosen = [n for n, values in enumerate(operations) if values.noise_sd]
        if chosen:
            seeds = [operations[n].noise_seed + 0x9E3779B1 * places[n] for n in chosen]
            sd = self._tensor([operations[n].noise_sd for n in chosen]).view(-1, 1)
            noise = self._noise([seed & 0xFFFFFFFF for seed in seeds], size.numel())
            images[chosen] += (sd * noise).view(-1, *size)
        chosen = [n for n, values in enumerate(operations) if values.gamma != 1]
        if chosen:
            some = images[chosen]
            low, high = some.amin((1, 2, 3), keepdim=True), some.amax((1, 2, 3), keepdim=True)
            spread = (high - low).clamp_min(1e-6)
            gamma = self._tensor([operations[n].gamma for n in chosen]).view(-1, 1, 1, 1)
            images[chosen] = ((some - low) / spread) ** gamma * spread + low
        for n, values in enumerate(operations):
            if values.bias is not None:
                rows = [self._tensor(legendre(length)) for length in size]
                field = torch.einsum("abc,ax,by,cz->xyz", self._tensor(values.bias), *rows)
                images[n] *= field.exp()
        scale = self._tensor([values.scale for values in operations]).view(-1, 1, 1, 1)
        shift = self._tensor([values.shift for values in operations]).view(-1, 1, 1, 1)
        images.mul_(scale).add_(shift)

    def _blurred(self, images: Tensor, sigma: Sequence[Sequence[float]]) -> Tensor:
        """Separable Gaussian of (N, X, Y, Z) with (N, 3) sigmas, mirrored borders."""
        for axis in range(3):
            kernels = [gaussian(values[axis]) for values in sigma]
            weights = np.zeros((len(kernels), max(map(len, kernels))), np.float32)
            for row, kernel in zip(weights, kernels, strict=True):
                row[: len(kernel)] = kernel
            weight = self._tensor(weights).view(*weights.shape, 1, 1, 1)
            length = images.shape[axis + 1]
            period = max(2 * length - 2, 1)
            index = torch.arange(length, device=self.device)
            total = images * weight[:, 0]
            for distance in range(1, weights.shape[1]):
                for moved in (index - distance, index + distance):
                    place = moved.abs() % period
                    place = torch.where(place >= length, period - place, place)
                    total += weight[:, distance] * images.index_select(axis + 1, place)
            images = total
        return images

    def _noise(self, seeds: Sequence[int], count: int) -> Tensor:
        """(N, count) normal values, a function of seed and index; see ``intensity.add_noise``."""
        low = 0xFFFFFFFF
        index = torch.arange(count, device=self.device)[None]
        h = ((index * 0x9E3779B9) & low) ^ torch.tensor(seeds, device=self.device)[:, None]
        h = ((h ^ (h >> 16)) * 0x7FEB352D) & low
        h = ((h ^ (h >> 15)) * 0x846CA68B) & low
        h = h ^ (h >> 16)
        return self._table[h & 4095] + self._table[(h >> 12) & 4095]
