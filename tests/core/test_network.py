"""What deeply supervised networks return is taken apart by position and by name."""

from __future__ import annotations

import torch
from torch.utils import _pytree

from msseg_lightning.core.network import DeepLogits, on_grid


def test_the_finest_logits_come_first():
    output = DeepLogits(torch.zeros(1, 1, 4, 4, 4), (torch.ones(1, 1, 2, 2, 2),))
    finest, deeper = output
    assert finest is output.logits is output[0] and deeper is output.deeper


def test_torch_sees_every_tensor_of_it():
    """As it must where several devices gather outputs, and where a network is compiled."""
    tensors = [torch.full((2,), float(value)) for value in range(3)]
    leaves, shape = _pytree.tree_flatten(DeepLogits(tensors[0], (tensors[1], tensors[2])))
    assert [leaf is tensor for leaf, tensor in zip(leaves, tensors, strict=True)] == [True] * 3
    assert isinstance(_pytree.tree_unflatten(leaves, shape), DeepLogits)


def test_who_asks_for_the_size_of_voxels_is_told():
    class Asks:
        def on_grid(self, spacing_mm):
            return spacing_mm

    plain = object()
    assert on_grid(plain, (1.0, 2.0, 3.0)) is plain
    assert on_grid(Asks(), (1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)
