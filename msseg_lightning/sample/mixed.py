"""Batches of real and synthetic pairs, with a weight for each kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.loader import BatchMaker, Loader, PatchLoader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler
from msseg_lightning.sample.synthetic_pairs import Donors, PairSynthesis, Plan
from msseg_lightning.sample.visit import Visit, VisitSource, visits_of


class MixedPairs:
    """Loader of real and synthetic patches in a fixed ratio.

    ``Batch.weight`` is 1 for real and ``synthetic_weight`` for synthetic elements; a task must use
    it (``train.weighted.WeightedTask``).

    Args:
        subjects: prepared training pairs.
        sampler: where real patches lie.
        augment: cuts and changes real patches.
        image_names: the two visits, in the order of the network's channels.
        target_names: the mask of new lesions.
        batch_size: real and synthetic elements per rank, divisible by their ratio.
        seed: of the run.
        synthesis: how pairs are made up; its patches have the size of the real ones.
        synthetic_per_real: synthetic elements for each real one.
        synthetic_weight: of each.
        inpainter, generator: the frozen networks of ``PairSynthesis.render``.
        visits: scans that pairs are made from; where it has none, the visits of the training pairs
            that have masks of all lesions.
        device: where the frozen networks run; ``auto`` is the GPU where there is one.
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: PatchSampler,
        augment: PatchMaker | BatchMaker,
        synthesis: PairSynthesis,
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        batch_size: int = 4,
        seed: int = 0,
        synthetic_per_real: int = 3,
        synthetic_weight: float = 1 / 3,
        inpainter: nn.Module | None = None,
        generator: nn.Module | None = None,
        visits: VisitSource | None = None,
        device: Literal["auto", "cpu"] = "auto",
    ) -> None:
        problems = list(_wrong(batch_size, synthetic_per_real, image_names, target_names))
        if tuple(sampler.size) != tuple(synthesis.sampler.size):
            problems.append(
                _problem(
                    "loader.synthesis.sampler.size",
                    str(synthesis.sampler.size),
                    f"{sampler.size}, the size of the real patches",
                )
            )
        if problems:
            raise MssegError(problems)
        self.real = PatchLoader(
            subjects,
            sampler,
            augment,
            image_names,
            target_names,
            batch_size=batch_size // (1 + synthetic_per_real),
            seed=seed,
        )
        self.synthetic = SyntheticPairs(
            visits_of(subjects, visits),
            synthesis,
            image_names,
            inpainter,
            generator,
            device,
            batch_size=batch_size - self.real.batch_size,
            seed=seed,
        )
        self.synthetic_weight = synthetic_weight

    def iterate(self, start: int, stop: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Batches of the steps ``start .. stop - 1``, made in the background."""
        both = (
            loader.iterate(start, stop, rank, world_size) for loader in (self.real, self.synthetic)
        )
        for real, synthetic in zip(*both, strict=True):
            yield self._join(real, synthetic)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Batch of one training step, a function of (seed, step, rank)."""
        return self._join(
            self.real.batch(step, rank, world_size), self.synthetic.batch(step, rank, world_size)
        )

    def _join(self, real: Batch, synthetic: Batch) -> Batch:
        weight = synthetic.weight * self.synthetic_weight
        return Batch(
            images=torch.cat([real.images, synthetic.images.to(real.images)]),
            target=torch.cat([real.target, synthetic.target.to(real.target)]),
            subjects=(*real.subjects, *synthetic.subjects),
            weight=torch.cat([real.weight, weight.to(real.weight)]),
        )


class SyntheticPairs(Loader):
    """Batches of synthetic pairs that are made from single scans.

    Args:
        visits: scans with masks of all lesions.
        synthesis: how pairs are made up.
        image_names: the two visits, in the order of the network's channels.
        inpainter, generator, device: see ``MixedPairs``.
        others: see ``Loader``.
    """

    def __init__(
        self,
        visits: Sequence[Visit],
        synthesis: PairSynthesis,
        image_names: Sequence[str],
        inpainter: nn.Module | None = None,
        generator: nn.Module | None = None,
        device: Literal["auto", "cpu"] = "auto",
        **others: Any,
    ) -> None:
        super().__init__(visits, image_names, (TARGET,), **others)
        self.visits, self.synthesis = list(visits), synthesis
        self.inpainter, self.generator, self.device = inpainter, generator, device
        self.donors = None
        if generator is not None and synthesis.painted[1]:
            self.donors = Donors(self.visits, synthesis.connectivity)
        # of the copies (first, second), in the order of the channels
        self.order = [(BASELINE, FOLLOWUP).index(name) for name in image_names]

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two copies of a scan; the new lesions."""
        size = self.synthesis.sampler.size
        return (2, *size), (1, *size)

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> Plan:
        """Plan one pair; ``assemble`` renders all pairs of the batch."""
        generator = keyed_generator(self.seed, "synthesis", step, element)
        return self.synthesis.plan(self.visits, self.donors, generator)

    def assemble(self, images: torch.Tensor, labels: torch.Tensor, made: Sequence[Plan]) -> Batch:
        """Render the planned pairs."""
        pairs, new = self.synthesis.render(made, self.inpainter, self.generator)
        images.numpy()[:] = pairs[:, self.order]
        labels.numpy()[:] = new
        return super().assemble(images, labels, [plan.subject for plan in made])

    def iterate(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1, ahead: int = 2
    ) -> Iterator[Batch]:
        """See ``Loader``; the frozen networks are moved to the GPU where there is one."""
        if self.device == "auto" and torch.cuda.is_available():
            # asked here: the current device belongs to a thread, and another one makes the batches
            device = torch.device("cuda", torch.cuda.current_device())
            for network in (self.inpainter, self.generator):
                if network is not None:
                    network.to(device)
        yield from super().iterate(start, stop, rank, world_size, ahead)


def _wrong(
    batch_size: int, per_real: int, image_names: Sequence[str], target_names: Sequence[str]
) -> Iterator[Problem]:
    if per_real < 1 or batch_size < 1 or batch_size % (1 + per_real):
        yield _problem("train.batch_size", str(batch_size), f"a multiple of 1 + {per_real}")
    if sorted(image_names) != sorted((BASELINE, FOLLOWUP)):
        yield _problem("channels.images", ", ".join(image_names), f"{BASELINE}, {FOLLOWUP}")
    if tuple(target_names) != (TARGET,):
        yield _problem("channels.target", ", ".join(target_names), TARGET)


def _problem(field: str, found: str, expected: str) -> Problem:
    return Problem(
        "sample.mixed",
        "real and synthetic patches cannot be mixed with this setting",
        field=field,
        found=found,
        expected=expected,
        remedy=f"change {field}",
        exit_code=ExitCode.CONFIG,
    )
