import pytest
import torch
from torch import nn

from msseg_lightning.network.pooling_free import PoolingFreeNet


def parameters(network):
    return sum(weight.numel() for weight in network.parameters())


def test_parameters_and_channels():
    """Card: the fourth takes the third's 64 and 3, the fifth the fourth's 64 and the second's 32,
    the seventh the sixth's 16 and the follow-up."""
    network = PoolingFreeNet()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert [c.in_channels for c in convolutions] == [2, 16, 32, 64 + 3, 64 + 32, 32, 16 + 1]
    assert [c.out_channels for c in convolutions] == [16, 32, 64, 64, 32, 16, 1]
    assert all(
        (c.kernel_size, c.stride, c.padding) == ((3,) * 3, (1,) * 3, (1,) * 3) for c in convolutions
    )
    assert parameters(network) == 283_660
    with_relu = PoolingFreeNet(final_relu=True)
    assert parameters(with_relu) == 283_660 + 2
    with pytest.raises(ValueError, match="seven"):
        PoolingFreeNet(widths=(4, 1))


def test_a_box_of_any_size_keeps_it():
    network = PoolingFreeNet(widths=(4, 4, 4, 4, 4, 4, 1)).eval()
    for size in ((5, 7, 9), (1, 1, 1), (2, 20, 3)):
        assert network(torch.randn(1, 5, *size)).shape == (1, 1, *size)


def wired(skip=None):
    """A network whose centre weights add up what each convolution takes, without norm or ReLU.

    Args:
        skip: number of a convolution whose input from elsewhere is cut.
    """
    network = PoolingFreeNet(widths=(1,) * 7).eval()
    for number, convolution in enumerate(m for m in network.modules() if isinstance(m, nn.Conv3d)):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)
        convolution.weight.data[0, :, 1, 1, 1] = 1.0
        if number == skip:
            convolution.weight.data[0, 1:] = 0.0
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm3d)):
        norm.eps = 0.0
    return network


def test_what_enters_where():
    """All weights one: early = B + F, fourth = early + D + N + O, fifth = fourth + early, the
    seventh adds F: 2 (B + F) + D + N + O + F."""
    baseline, followup, depth, neck, nose = values = (1.0, 10.0, 100.0, 1000.0, 10000.0)
    images = torch.tensor(values).view(1, 5, 1, 1, 1)
    early, positions = baseline + followup, depth + neck + nose
    assert wired()(images).item() == pytest.approx(2 * early + positions + followup)
    assert wired(skip=3)(images).item() == pytest.approx(2 * early + followup)
    assert wired(skip=4)(images).item() == pytest.approx(early + positions + followup)
    assert wired(skip=6)(images).item() == pytest.approx(2 * early + positions)


def test_the_last_relu_leaves_no_probability_below_one_half():
    torch.manual_seed(0)
    images = torch.randn(2, 5, 4, 4, 4)
    assert PoolingFreeNet(final_relu=True)(images).sigmoid().min() >= 0.5
    assert PoolingFreeNet()(images).sigmoid().min() < 0.5
