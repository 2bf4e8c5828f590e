"""Patches around centres of a regular grid, with a share of centres near lesions (S11).

The network answers for the middle of its patch alone, so that is what a centre is chosen for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import TARGET
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.sample.patch import PatchSpec, three


class ReinforcedCentres:
    """Draws centres of regular grids; a share of the draws contains the target.

    The middles of the patches, cubes of ``output`` voxels, are spread evenly over each axis from
    end to end. A reinforced centre is one of the finer grid whose middle holds a voxel of the
    target; the others of that grid are discarded. The rest of the draws are any centre of the
    coarser grid.

    Args:
        size: edge of a patch, which may reach over the ends of the volume.
        output: edge of the middle that the network answers for; ``size - output`` is even.
        counts: centres along each axis.
        reinforced: share of draws that are reinforced, of any subject's centres alike.
        reinforced_counts: centres along each axis of the grid that these are taken from.
        target: mask whose voxels count.
    """

    def __init__(
        self,
        size: int,
        output: int,
        counts: Sequence[int],
        reinforced: float,
        reinforced_counts: Sequence[int],
        target: str = TARGET,
    ) -> None:
        if not 1 <= output <= size or (size - output) % 2:
            raise ValueError(f"output {output} does not lie in the middle of size {size}")
        if not 0 <= reinforced <= 1:
            raise ValueError(f"reinforced {reinforced} is not between 0 and 1")
        self.size, self.output = three(size), output
        self.counts, self.reinforced_counts = three(counts), three(reinforced_counts)
        self.reinforced, self.target = reinforced, target
        self._found: dict[str, NDArray[np.int64]] = {}

    def draw(
        self, subjects: Sequence[PreparedSubject], generator: np.random.Generator
    ) -> PatchSpec:
        """See ``PatchSampler``. Where no centre meets the condition, any centre is drawn."""
        if generator.random() < self.reinforced:
            found = [self.with_target(subject) for subject in subjects]
            ends = np.cumsum([len(starts) for starts in found])
            if ends[-1]:
                pick = int(generator.integers(ends[-1]))
                index = int(np.searchsorted(ends, pick, side="right"))
                return self._spec(index, found[index][pick - ends[index]], positive=True)
        index = int(generator.integers(len(subjects)))
        starts = grid_starts(subjects[index].grid.shape, self.output, self.counts)
        return self._spec(index, starts[generator.integers(len(starts))], positive=False)

    def with_target(self, subject: PreparedSubject) -> NDArray[np.int64]:
        """(n, 3) first voxels of the middles that hold the target; found once per subject."""
        key = str(subject.folder)
        if key not in self._found:
            starts = grid_starts(subject.grid.shape, self.output, self.reinforced_counts)
            voxels = subject.voxels(self.target)
            holds = [
                bool(((voxels >= start) & (voxels < start + self.output)).all(1).any())
                for start in starts
            ]
            self._found[key] = starts[np.array(holds, bool)]
        return self._found[key]

    def _spec(self, index: int, start: NDArray[np.int64], positive: bool) -> PatchSpec:
        centre = start + (self.output - 1) / 2
        return PatchSpec(index, np.asarray(centre, np.float64), self.size, positive)


def grid_starts(shape: Sequence[int], edge: int, counts: tuple[int, int, int]) -> NDArray[np.int64]:
    """(n, 3) first voxels of cubes spread evenly from end to end of a volume, in array order."""
    axes = [
        np.rint(np.linspace(0, max(length - edge, 0), count)).astype(np.int64)
        for length, count in zip(shape, counts, strict=True)
    ]
    return np.array(list(itertools.product(*axes)), np.int64)


class MiddleLoader(PatchLoader):
    """Batches whose target is the centre of the patch, for networks with a smaller output.

    Arguments are those of ``PatchLoader``, with a sampler that knows its ``output``.

    ``Batch.target`` is (B, targets, output, output, output); ``Batch.extra`` likewise.
    """

    sampler: ReinforcedCentres

    def assemble(self, images: torch.Tensor, labels: torch.Tensor, made: Sequence[str]) -> Batch:
        """Crop the labels to the output of the network."""
        start = (self.sampler.size[0] - self.sampler.output) // 2
        part = slice(start, start + self.sampler.output)
        return super().assemble(images, labels[..., part, part, part].contiguous(), made)
