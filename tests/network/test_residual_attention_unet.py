import pytest
import torch
from torch import nn
from torch.nn import functional

from msseg_lightning.network.residual_attention_unet import (
    AttentionGate,
    ResidualAttentionUNet,
    ResidualUnit,
)


def small(dims=2):
    torch.manual_seed(0)
    return ResidualAttentionUNet(2, [4, 6, 8, 10, 12], dims=dims).eval()


def attention_maps(network, images):
    seen = []
    for gate in network.gates:
        gate.map.register_forward_hook(lambda _, given, found: seen.append(found))
    with torch.no_grad():
        network(images)
    return seen


def test_parameters_of_the_authors_model_file():
    with torch.device("meta"):
        network = ResidualAttentionUNet()
    assert sum(weight.numel() for weight in network.parameters()) == 4_925_429
    # Keras counts the running mean and variance of each norm too
    statistics = [name for name, _ in network.named_buffers() if name.endswith(("mean", "var"))]
    buffers = dict(network.named_buffers())
    assert 4_925_429 + sum(buffers[name].numel() for name in statistics) == 4_934_613


def test_four_maps_of_one_channel_between_0_and_1():
    images = torch.randn(2, 2, 32, 48)
    maps = attention_maps(small(), images)
    assert [tuple(found.shape) for found in maps] == [
        (2, 1, 4, 6),
        (2, 1, 8, 12),
        (2, 1, 16, 24),
        (2, 1, 32, 48),
    ]
    for found in maps:
        assert 0 <= found.min() < found.max() <= 1
    with torch.device("meta"):
        gates = ResidualAttentionUNet().gates
    assert [gate.of_skip[-1].out_channels for gate in gates] == [256, 256, 128, 64]
    assert [gate.of_skip[-1].in_channels for gate in gates] == [128, 64, 32, 16]


def test_a_gate_by_hand():
    """Norms of mean 0 and variance 1 - e: relu(skip) + relu(coarse), doubled, less 1."""
    gate = AttentionGate(1, 1, 1, dims=2).eval()
    with torch.no_grad():
        for part in (gate.of_skip, gate.of_coarse):
            part[0].running_var.fill_(1 - 1e-3)
            part[2].weight.fill_(1)
            part[2].bias.zero_()
        gate.map[1].weight.fill_(2)
        gate.map[1].bias.fill_(-1)
        skip = torch.tensor([3.0, -2.0, 0.5]).view(1, 1, 1, 3)
        coarse = torch.tensor([1.0, 2.0, -4.0]).view(1, 1, 1, 3)
        found = gate(skip, coarse).flatten()
    # sums 4, 2 and 0.5: sigmoid of 7, 3 and 0
    expected = skip.flatten() * torch.tensor([7.0, 3.0, 0.0]).sigmoid()
    torch.testing.assert_close(found, expected)


def test_a_closed_gate_hides_its_skip():
    network = small()
    images = torch.randn(1, 2, 32, 32)
    handed = []
    network.decoder[-1].register_forward_hook(lambda _, given, found: handed.append(given[0]))
    with torch.no_grad():
        network(images)
        network.gates[-1].map[1].weight.zero_()
        network.gates[-1].map[1].bias.fill_(-100)
        network(images)
    wide = network.decoder[-1].way[0].num_features - 4
    assert handed[0][:, wide:].any() and not handed[1][:, wide:].any()
    torch.testing.assert_close(handed[0][:, :wide], handed[1][:, :wide])


@pytest.mark.parametrize("first", [True, False])
def test_a_residual_unit_is_the_sum_of_both_ways(first):
    torch.manual_seed(0)
    unit = ResidualUnit(3, 5, stride=2, first=first, dims=2).eval()
    features = torch.randn(1, 3, 8, 8)
    convolutions = [layer for layer in unit.way if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in unit.way if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == (1 if first else 2)
    with torch.no_grad():
        given = features if first else functional.relu(norms[0](features))
        inner = convolutions[1](functional.relu(norms[-1](convolutions[0](given))))
        beside = unit.beside[1](unit.beside[0](features))
        torch.testing.assert_close(unit(features), inner + beside)
    assert tuple(inner.shape) == (1, 5, 4, 4)


def test_in_3d_too():
    network = small(dims=3)
    assert network.divisor == (16, 16, 16)
    with torch.no_grad():
        assert tuple(network(torch.randn(1, 2, 16, 16, 32)).shape) == (1, 1, 16, 16, 32)
