from __future__ import annotations

import copy

import torch
from torch import nn

from msseg_lightning.network.blocks import Block
from msseg_lightning.train.recompute import recompute_blocks


def block(norm):
    return nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), norm, nn.ReLU(), nn.Conv3d(2, 2, 1))


def gradients(network):
    """Gradients, and the bytes kept for the backward pass."""
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    images = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images).square().mean()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in network.parameters()]), sum(kept)


def test_gradients_stay_and_less_is_kept():
    plain = nn.Sequential(*(block(nn.InstanceNorm3d(2)) for _ in range(4)))
    thrifty = copy.deepcopy(plain)
    assert recompute_blocks(thrifty) == 4
    assert thrifty.state_dict().keys() == plain.state_dict().keys()
    (expected, much), (found, little) = gradients(plain), gradients(thrifty)
    assert torch.equal(found, expected)
    assert little < much / 2


def test_the_parts_of_a_block_may_stand_in_a_list():
    recipe = Block("norm_act_conv", True)
    network = nn.Sequential(recipe.build(2, 4, (3, 3, 3), (1, 1, 1)))
    assert recompute_blocks(network) == 1
    plain = copy.deepcopy(recipe.build(2, 4, (3, 3, 3), (1, 1, 1)))
    plain.load_state_dict(network[0].state_dict())
    (expected, much), (found, little) = gradients(plain), gradients(network)
    assert torch.equal(found, expected)
    assert little < much / 2


def test_running_statistics_count_every_batch_once():
    network = nn.Sequential(block(nn.BatchNorm3d(2)), block(nn.Identity()))
    assert recompute_blocks(network) == 1
    gradients(network)
    assert int(network[0][1].num_batches_tracked) == 1
