"""Uniform sampling in the brain or the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BRAIN
from msseg_lightning.sample.patch import PatchSpec, lattice_centre, three


class UniformSampler:
    """Draws a subject uniformly, then a voxel of its brain or volume uniformly.

    A network that is slid over whole heads must meet scalp and air in training too: take
    ``volume`` wherever preprocessing leaves them in.

    Args:
        size: of the patch in voxels, one number or three.
        inside: move patches at the border into the volume, as MONAI and nnU-Net do.
        where: what the centres are drawn from.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        inside: bool = True,
        where: Literal["brain", "volume"] = "brain",
    ) -> None:
        if where not in ("brain", "volume"):
            raise ValueError(f"where {where!r} is neither brain nor volume")
        self.size = three(size)
        self.where = where
        self.inside = inside

    def draw(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """See ``PatchSampler``. Where a volume has no brain voxel, any voxel may be the centre."""
        index = int(generator.integers(len(subjects)))
        subject = subjects[index]
        places = subject.voxels(BRAIN) if self.where == "brain" else ()
        if len(places):
            voxel = places[generator.integers(len(places))]
        else:
            voxel = generator.integers(subject.grid.shape)
        centre = lattice_centre(voxel, self.size, subject.grid.shape, self.inside)
        return PatchSpec(index, centre, self.size, positive=False)
