"""Sampling with a fixed share of patches centred on lesions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import TARGET
from msseg_lightning.sample.patch import PatchSpec, lattice_centre, three
from msseg_lightning.sample.uniform import UniformSampler


class RatioSampler:
    """With probability ``positive_ratio`` centre the patch on a random voxel of the target.

    The ratio counts draws whose centre was taken from the target; a uniform patch may meet a lesion
    by chance and still counts as the other kind. Large lesions are chosen more often, in proportion
    to their volume.

    Args:
        size: of the patch in voxels, one number or three.
        positive_ratio: in [0, 1].
        target: mask whose voxels are positive.
        only_lesional: take positive draws from the subjects that have target voxels, each equally
            often, so that the ratio holds in cohorts with many empty targets. False chooses the
            subject first; an empty one then gives a uniform patch and the ratio drops.
        jitter_voxels: positive centres move by up to this much along each axis. Where windows are
            small and nothing moves the patch, 0 teaches a network that lesions lie in the middle:
            the padding of its convolutions tells it where that is.
        inside: move patches at the border into the volume, as MONAI and nnU-Net do.
        where: what the other centres are drawn from, ``brain`` or ``volume``.
        lesion_free: the other patches hold no voxel of the target (S04), drawn anew up to 100
            times; where none was found, the last one is taken.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        positive_ratio: float = 0.5,
        target: str = TARGET,
        only_lesional: bool = True,
        jitter_voxels: int = 0,
        inside: bool = True,
        where: Literal["brain", "volume"] = "brain",
        lesion_free: bool = False,
    ) -> None:
        if not 0 <= positive_ratio <= 1:
            raise ValueError(f"positive_ratio {positive_ratio} is not between 0 and 1")
        self.size = three(size)
        self.positive_ratio = positive_ratio
        self.target = target
        self.only_lesional = only_lesional
        self.jitter_voxels = jitter_voxels
        self.lesion_free = lesion_free
        self._uniform = UniformSampler(self.size, inside, where)

    def draw(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """See ``PatchSampler``."""
        if generator.random() >= self.positive_ratio:
            return self._other(subjects, generator)
        choices: Sequence[int] = range(len(subjects))
        if self.only_lesional:
            choices = [i for i, s in enumerate(subjects) if len(s.voxels(self.target))]
        if not choices:
            return self._uniform.draw(subjects, generator)
        index = choices[int(generator.integers(len(choices)))]
        subject = subjects[index]
        places = subject.voxels(self.target)
        if not len(places):
            return self._within(subjects, index, generator)
        voxel = places[generator.integers(len(places))]
        if self.jitter_voxels:
            voxel = voxel + generator.integers(-self.jitter_voxels, self.jitter_voxels + 1, 3)
        centre = lattice_centre(voxel, self.size, subject.grid.shape, self._uniform.inside)
        return PatchSpec(index, centre, self.size, positive=True)

    def _other(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """A patch that is not centred on a lesion."""
        spec = self._uniform.draw(subjects, generator)
        tries = 100 if self.lesion_free else 0
        while tries and self._holds_target(subjects[spec.subject], spec):
            spec = self._within(subjects, spec.subject, generator)
            tries -= 1
        return spec

    def _within(
        self, subjects: Sequence[PreparedSubject], index: int, generator: np.random.Generator
    ) -> PatchSpec:
        """A uniformly drawn patch of a subject."""
        spec = self._uniform.draw([subjects[index]], generator)
        return dataclasses.replace(spec, subject=index)

    def _holds_target(self, subject: PreparedSubject, spec: PatchSpec) -> bool:
        away = np.abs(subject.voxels(self.target) - spec.centre)
        return bool((away < np.asarray(self.size) / 2).all(1).any())
