"""Batches follow from the optimiser step alone, and no rank waits for another's pairs."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from msseg_lightning.train.datamodule import LongitudinalDataModule


class Numbered:
    """Batches are (step, rank of so many)."""

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for step in range(start_step, stop_step):
            yield step, rank, world_size


def module(step=0, rank=0, ranks=1, **settings):
    made = LongitudinalDataModule(Numbered(), epoch_steps=3, **settings)
    made.trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=ranks)
    return made


@pytest.mark.parametrize(("step", "steps"), [(0, [0, 1, 2]), (2, [2]), (3, [3, 4, 5]), (4, [4, 5])])
def test_an_epoch_goes_on_in_its_middle(step, steps):
    assert [batch[0] for batch in module(step).train_dataloader()] == steps


def test_batches_that_are_added_up_are_as_many_ranks():
    """Two batches per step on one device are what two devices see."""
    alone = list(module(accumulate=2).train_dataloader())
    pair = [list(module(rank=rank, ranks=2).train_dataloader()) for rank in range(2)]
    assert alone == [batch for step in zip(*pair, strict=True) for batch in step]
    second = list(module(rank=1, ranks=2, accumulate=2).train_dataloader())
    assert second[:2] == [(0, 1, 4), (0, 3, 4)]


def test_every_rank_takes_as_many_pairs_and_each_pair_once():
    shares = [list(module(rank=rank, ranks=2, val="abc").val_dataloader()) for rank in range(2)]
    assert shares == [["a", "c"], ["b", None]]
    assert list(module(val="abc").val_dataloader()) == ["a", "b", "c"]


def test_waiting_is_timed():
    parts = []

    class Clock:
        @contextlib.contextmanager
        def time(self, part):
            parts.append(part)
            yield

    made = module()
    made.clock = Clock()
    assert len(list(made.train_dataloader())) == 3
    assert parts == ["wait for a batch"] * 4  # the last finds that there is none
