"""Batches of real pairs and of pairs made up from single scans, each kind with its weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.ahead import made_ahead
from msseg_lightning.sample.loader import BatchMaker, PatchLoader, PatchMaker, first_element
from msseg_lightning.sample.patch import PatchSampler
from msseg_lightning.sample.synthetic_pairs import Donors, PairSynthesis
from msseg_lightning.sample.visit import VisitSource, visits_of


class MixedPairs:
    """Real patches first, then synthetic ones, in a fixed ratio.

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
        self.made_up = batch_size - self.real.batch_size
        self.synthesis, self.seed = synthesis, seed
        self.synthetic_weight = synthetic_weight
        self.inpainter, self.generator = inpainter, generator
        self.visits = visits_of(subjects, visits)
        self.donors = None
        if generator is not None and synthesis.painted[1]:
            self.donors = Donors(self.visits, synthesis.connectivity)
        self.device = device
        # of the copies (first, second), in the order of the channels
        self.order = [(BASELINE, FOLLOWUP).index(name) for name in image_names]

    def iterate(self, start: int, stop: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Batches of the steps ``start .. stop - 1``, made in the background."""
        if self.device == "auto" and torch.cuda.is_available():
            # asked here: the current device belongs to a thread, and another one makes the batches
            device = torch.device("cuda", torch.cuda.current_device())
            for network in (self.inpainter, self.generator):
                if network is not None:
                    network.to(device)
        yield from made_ahead(lambda step: self.batch(step, rank, world_size), start, stop)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Batch of one training step, a function of (seed, step, rank)."""
        real = self.real.batch(step, rank, world_size)
        first = first_element(self.made_up, rank, world_size)
        plans = [
            self.synthesis.plan(
                self.visits,
                self.donors,
                keyed_generator(self.seed, "synthesis", step, first + index),
            )
            for index in range(self.made_up)
        ]
        images, new = self.synthesis.render(plans, self.inpainter, self.generator)
        ordered = np.ascontiguousarray(images[:, self.order])
        weight = torch.full((self.made_up,), self.synthetic_weight)
        return Batch(
            images=torch.cat([real.images, torch.from_numpy(ordered).to(real.images)]),
            target=torch.cat([real.target, torch.from_numpy(new).to(real.target)]),
            subjects=(*real.subjects, *(plan.subject for plan in plans)),
            weight=torch.cat([real.weight, weight.to(real.weight)]),
        )


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
