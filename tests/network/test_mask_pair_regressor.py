import pytest
import torch

from msseg_lightning.network.blocks import Activation, Block, Norm
from msseg_lightning.network.mask_pair_regressor import MaskPairRegressor

BLOCK = Block(units=1, norm=Norm("group", groups=8), activation=Activation("leaky_relu", 0.01))


def test_layers():
    network = MaskPairRegressor([16, 32, 64, 128], BLOCK)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    assert [m.out_channels for m in convolutions] == [16, 32, 64, 128]
    assert all(m.kernel_size == (3, 3, 3) and m.stride == (2, 2, 2) for m in convolutions)
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(1024, 128), (128, 1)]
    # convolutions, group norms and the two layers, by hand
    kernels = [27 * a * b + b for a, b in ((2, 16), (16, 32), (32, 64), (64, 128))]
    norms = [2 * b for b in (16, 32, 64, 128)]
    expected = sum(kernels) + sum(norms) + 1024 * 128 + 128 + 128 + 1
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("edge", [16, 24, 40])
def test_one_number_between_0_and_1_for_any_patch(edge):
    torch.manual_seed(0)
    network = MaskPairRegressor([8, 8, 8], BLOCK, hidden=16)
    pair = torch.rand(3, 2, edge, edge, edge, requires_grad=True)
    estimate = network(pair)
    assert tuple(estimate.shape) == (3, 1)
    assert bool(((estimate > 0) & (estimate < 1)).all())
    estimate.sum().backward()
    assert bool((pair.grad != 0).any()) and all(p.grad is not None for p in network.parameters())
    alone = torch.cat([network(part[None]) for part in pair])
    torch.testing.assert_close(alone, estimate)
