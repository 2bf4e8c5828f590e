"""Sampling of patch centres with weights for masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.prepared import CANDIDATES, PreparedSubject
from msseg_lightning.core.subject import BRAIN, TARGET
from msseg_lightning.sample.patch import PatchSpec, lattice_centre, three


class WeightedSampler:
    """Draws a subject uniformly, then a voxel in proportion to its weight.

    A voxel has the weight of the heaviest mask it lies in, and none outside all of them. The share
    of patches centred on lesions follows from the lesions' size: with 1 for brain and 100 for
    lesions, 500 lesion voxels in a brain of 1.5 million get 3 % of the draws, and a subject
    without lesions none.

    Args:
        size: of the patch in voxels, one number or three.
        weights: mask -> weight of its voxels, > 0.
        target: mask by which a draw counts as positive.
        inside: move patches at the border into the volume. The cited sampler gives such centres
            no weight instead.

    Reference:
        Perez-Garcia et al. 2021 (TorchIO's ``WeightedSampler``), https://arxiv.org/abs/2003.04696
    """

    def __init__(
        self,
        size: int | Sequence[int],
        weights: Mapping[str, float],
        target: str = TARGET,
        inside: bool = True,
    ) -> None:
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"weights {dict(weights)}: every mask named needs one above 0")
        self.size = three(size)
        self.weights = dict(sorted(weights.items(), key=lambda entry: entry[1]))
        self.target, self.inside = target, inside
        self._counts: dict[tuple[Path, str], int] = {}

    def draw(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """See ``PatchSampler``. Where all masks are empty any voxel may be the centre."""
        index = int(generator.integers(len(subjects)))
        subject = subjects[index]
        voxel, name = self._voxel(subject, generator)
        centre = lattice_centre(voxel, self.size, subject.grid.shape, self.inside)
        return PatchSpec(index, centre, self.size, positive=name == self.target)

    def _voxel(
        self, subject: PreparedSubject, generator: np.random.Generator
    ) -> tuple[NDArray[np.integer], str | None]:
        """Draw a voxel and the mask it was drawn for."""
        names = list(self.weights)
        mass = np.array([self.weights[name] * self._count(subject, name) for name in names])
        if not mass.any():
            return generator.integers(subject.grid.shape), None
        while True:  # a voxel also in a heavier mask is left to that one: drawn again
            place = int(generator.choice(len(names), p=mass / mass.sum()))
            voxels = subject.voxels(names[place])
            voxel = voxels[generator.integers(len(voxels))]
            if not any(_holds(subject, heavier, voxel) for heavier in names[place + 1 :]):
                return voxel, names[place]

    def _count(self, subject: PreparedSubject, name: str) -> int:
        """Voxels of a mask; long lists of candidates are a sample, so their mask is counted."""
        count = len(subject.voxels(name))
        if count < CANDIDATES:
            return count
        key = subject.folder, name
        if key not in self._counts:
            if name == BRAIN and name not in subject.layers:  # then it is where images are not 0
                self._counts[key] = int(np.count_nonzero(subject.inside()))
            else:
                self._counts[key] = int(np.count_nonzero(subject.mask(name)))
        return self._counts[key]


def _holds(subject: PreparedSubject, name: str, voxel: NDArray[np.integer]) -> bool:
    """Whether a mask holds one voxel; reads one word."""
    layer = subject.layer(name)
    x, y, z = voxel
    word = int(subject.array(layer.file)[x, y, z]) >> layer.shift
    value = (word & ((1 << layer.bits) - 1)) * layer.scale
    return value >= 0.5
