"""Longitudinal patches for training, whole pairs for validation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import lightning as L
from torch import nn
from torch.utils.data import DataLoader

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject


class PatchSource(Protocol):
    """Batches as a pure function of the step (see ``sample.loader.PatchLoader``)."""

    def iterate(
        self, start_step: int, stop_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Batches ``start_step`` .. ``stop_step - 1`` of one rank, made ahead by threads.

        Elements are numbered over all ranks; element e of step s is always the same.
        """


class Stopwatch(Protocol):
    """Measures time by part (see ``train.profile.Clock``)."""

    def time(self, part: str) -> AbstractContextManager[None]:
        """Add the time of the block to a part."""


class LongitudinalDataModule(L.LightningDataModule):
    """Data module for a :class:`~msseg_lightning.train.task.Task`.

    An epoch is a fixed number of batches, and its place in the stream follows from the optimiser
    step alone: a run that resumes in mid-epoch goes on with exactly the batches it had not seen.

    Args:
        patches: the source of training batches.
        val: prepared pairs that are predicted whole; each is seen by one rank only.
        epoch_steps: optimiser steps between two validations.
        accumulate: batches per optimiser step.
        validator: ``(network, pair) -> named scores``; used by a task that has none of its own.
    """

    def __init__(
        self,
        patches: PatchSource,
        val: Sequence[PreparedSubject] = (),
        epoch_steps: int = 250,
        accumulate: int = 1,
        validator: Callable[[nn.Module, PreparedSubject], Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.validator = validator
        self.patches, self.val = patches, list(val)
        self.epoch_steps, self.accumulate = epoch_steps, accumulate
        self.clock: Stopwatch | None = None

    def train_dataloader(self) -> PatchStream:
        """The remaining batches of the current epoch."""
        return PatchStream(self)

    def val_dataloader(self) -> DataLoader[PreparedSubject | None]:
        """Validation pairs of this rank, padded with None to equal length.

        Ranks meet in every validation step, so each must take the same number of them.
        """
        rank, world_size = self._place()
        rounds = -(-len(self.val) // world_size)
        share = [*self.val, *[None] * (rounds * world_size - len(self.val))][rank::world_size]
        return DataLoader(share, batch_size=None)  # type: ignore[arg-type]  # a list is enough

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


class PatchStream:
    """Batches of an epoch from the current optimiser step on; deliberately without a length."""

    def __init__(self, module: LongitudinalDataModule) -> None:
        self.module = module

    def __iter__(self) -> Iterator[Batch]:
        module, trainer = self.module, self.module.trainer
        step = 0 if trainer is None else trainer.global_step
        rank, world_size = module._place()
        stop = (step // module.epoch_steps + 1) * module.epoch_steps
        streams = module.accumulate
        parts = [
            module.patches.iterate(step, stop, index * world_size + rank, streams * world_size)
            for index in range(streams)
        ]
        batches = itertools.chain.from_iterable(zip(*parts, strict=True))
        return batches if module.clock is None else _timed(batches, module.clock)


def _timed(batches: Iterator[Batch], clock: Stopwatch) -> Iterator[Batch]:
    while True:
        with clock.time("wait for a batch"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
