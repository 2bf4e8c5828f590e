"""A batch is moved whole."""

from __future__ import annotations

import dataclasses

import torch

from msseg_lightning.core.batch import Batch


def test_a_batch_moves_every_tensor():
    batch = Batch(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2), ("a",), torch.ones(1))
    moved = batch.to("meta")
    assert (
        moved.images.device.type == moved.target.device.type == moved.weight.device.type == "meta"
    )


def test_further_tensors_move_too_and_the_batch_stays():
    batch = Batch(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2), ("a",), torch.ones(1))
    with_brain = dataclasses.replace(batch, extra={"brain": torch.ones(1, 1, 2, 2, 2)})
    moved = with_brain.to("meta")
    assert moved.extra["brain"].device.type == "meta" and moved.subjects == ("a",)
    assert with_brain.extra["brain"].device.type == "cpu" and batch.extra == {}
