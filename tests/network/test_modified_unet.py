"""S17's network, against the released one's count of weights and its own words."""

import pytest
import torch
from torch.nn import functional

from msseg_lightning.network.modified_unet import (
    GridGate,
    ModifiedUNet,
    PlainInstanceNorm,
    ResidualLevel,
    normalised_by_maximum,
    standardised,
)
from tests.contracts import check_network


@pytest.mark.parametrize(("attention", "weights"), [(False, 1_781_408), (True, 1_845_555)])
def test_number_of_weights(attention, weights):
    with torch.device("meta"):
        network = ModifiedUNet(attention=attention)
    assert sum(weight.numel() for weight in network.parameters()) == weights


@pytest.mark.parametrize("attention", [False, True])
def test_contract(attention):
    torch.manual_seed(0)
    network = ModifiedUNet(width=2, dropout=0.0, attention=attention)
    check_network(network, torch.randn(2, 2, 32, 16, 32))


def test_the_largest_value_of_a_sample_with_a_positive_one_is_exactly_1():
    values = torch.tensor([[-1.0, 0.3, 0.7], [-2.0, -1.0, -3.0], [1e-20, -5.0, 0.0]])
    answer = normalised_by_maximum(values.relu())
    assert answer.amax(1).tolist() == [1, 0, 1]
    torch.testing.assert_close(answer[0], torch.tensor([0.0, 3 / 7, 1.0]))


def test_each_sample_of_a_batch_is_divided_by_its_own_largest_value():
    torch.manual_seed(1)
    network = ModifiedUNet(width=2).eval()
    images = torch.randn(3, 2, 32, 32, 32) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1, 1, 1)
    with torch.no_grad():
        answer, raw = network(images), network.before_activation(images)
        top = raw.amax((1, 2, 3, 4))
        assert (top[:2] > 0).all()
        assert answer.amax((1, 2, 3, 4)).tolist() == [float(value > 0) for value in top]
        network.normalise = False
        torch.testing.assert_close(network(images), raw.relu())
        for head in network.heads:
            torch.nn.init.zeros_(head.weight)
        network.normalise = True
        assert not network(images).any()


def test_half_precision_keeps_the_largest_value_at_1():
    network = ModifiedUNet(width=2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(1, 2, 32, 32, 32)).amax().item() == 1


def test_patches_are_standardised_and_flat_ones_only_centred():
    images = torch.randn(2, 2, 4, 4, 4) * 3 + 7
    images[1, 0] = 0.1
    answer = standardised(images)
    torch.testing.assert_close(answer[0].mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(answer[0].std((1, 2, 3), correction=0), torch.ones(2))
    assert answer[1, 0].abs().max() < 1e-6
    torch.manual_seed(0)
    network = ModifiedUNet(width=2).eval()
    patch = torch.randn(1, 2, 32, 32, 32)
    with torch.no_grad():  # scale and brightness of a patch say nothing
        torch.testing.assert_close(network(2 * patch + 3), network(patch), atol=1e-4, rtol=1e-3)


def test_both_passes_of_a_level_use_one_convolution():
    """Second by hand: x + W(act(norm(W(act(norm(x)))))) with x the strided convolution."""
    torch.manual_seed(0)
    level = ResidualLevel(2, 4, dropout=0.0)
    images = torch.randn(1, 2, 8, 8, 8)
    kernel = level.again[2].weight
    first = functional.conv3d(images, level.first.weight, stride=2, padding=1)

    def once(features):
        features = functional.leaky_relu(functional.instance_norm(features), 0.01)
        return functional.conv3d(features, kernel, padding=1)

    torch.testing.assert_close(level(images), first + once(once(first)))


def test_a_gate_multiplies_the_skip_by_a_map_between_0_and_1():
    torch.manual_seed(0)
    gate = GridGate(4, 6)
    skip, signal = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 6, 2, 2, 2)
    weight = gate.map(skip, signal)
    assert weight.shape == (1, 1, 8, 8, 8) and 0 < weight.min() < weight.max() < 1
    torch.testing.assert_close(gate(skip, signal), gate.after(skip * weight))
    other = gate.map(skip, signal + 1)
    assert not torch.allclose(weight, other), "the signal must reach the map"


def test_the_three_lower_skips_are_gated_and_the_finest_is_not():
    network = ModifiedUNet(width=2, attention=True).eval()
    seen = []
    for gate in network.gates:
        gate.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1:3]))
    with torch.no_grad():
        network(torch.randn(1, 2, 32, 32, 32))
    assert [tuple(shape) for shape in seen] == [(16, 4), (8, 8), (4, 16)]


def test_lower_outputs_are_enlarged_and_added():
    """With the last output silent the map is made of blocks of 2 voxels."""
    torch.manual_seed(0)
    network = ModifiedUNet(width=2).eval()
    torch.nn.init.zeros_(network.heads[-1].weight)
    with torch.no_grad():
        answer = network.before_activation(torch.randn(1, 2, 32, 32, 32))
        blocks = answer[:, :, ::2, ::2, ::2]
        assert torch.equal(functional.interpolate(blocks, scale_factor=2.0), answer)
        assert not torch.equal(blocks[:, :, ::2, ::2, ::2], blocks[:, :, 1::2, 1::2, 1::2])
        torch.nn.init.zeros_(network.heads[1].weight)
        answer = network.before_activation(torch.randn(1, 2, 32, 32, 32))
        blocks = answer[:, :, ::4, ::4, ::4]
        assert torch.equal(functional.interpolate(blocks, scale_factor=4.0), answer)


def test_dropout_lies_in_every_level_of_the_encoder():
    network = ModifiedUNet(width=2, dropout=0.5)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Dropout3d)]
    assert len(layers) == 5 and all(layer.p == 0.5 for layer in layers)
    asked = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, *_: asked.append(layer))
    with torch.no_grad():
        network(torch.randn(1, 2, 32, 32, 32))
    assert len(asked) == 5 and set(asked) == set(layers)


def test_dropout_lies_between_both_passes_of_a_level():
    """Without any channel left the second pass adds nothing to the strided convolution."""
    level = ResidualLevel(2, 4, dropout=1.0)
    images = torch.randn(1, 2, 8, 8, 8)
    given = []
    level.dropout.register_forward_pre_hook(lambda _, features: given.append(features[0]))
    assert torch.equal(level(images), level.first(images))
    torch.testing.assert_close(given, [level.again(level.first(images))])


def test_the_norm_of_one_voxel_is_0():
    assert not PlainInstanceNorm()(torch.randn(2, 3, 1, 1, 1)).any()
