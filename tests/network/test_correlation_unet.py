import pytest
import torch

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.network.blocks import Norm
from msseg_lightning.network.correlation_unet import (
    CorrelationGate,
    CorrelationUNet,
    PairAutoencoder,
)
from tests.contracts import check_network

WIDTHS = [16, 32, 64, 128, 256, 512]
SMALL = [4, 8, 12]


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def gate(channels=2, out=4, query=2, **options):
    torch.manual_seed(0)
    return CorrelationGate(channels, out, query, Norm("group", channels_per_group=4), **options)


def test_the_network_of_the_paper_has_8_930_833_parameters():
    assert count(CorrelationUNet(WIDTHS)) == 8_930_833


def test_the_autoencoder_has_12_227_904_parameters_and_68_in_its_heads():
    network = PairAutoencoder(WIDTHS)
    heads = count(network.first_head) + count(network.second_head)
    assert (count(network) - heads, heads) == (12_227_904, 68)


def test_the_gate_formula_by_hand():
    # Q and K are the features themselves (identity kernels), V sums both differences in channel 0.
    block = gate()
    with torch.no_grad():
        for conv in (block.query, block.key):
            conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1, 1))
            conv.bias.zero_()
        block.value.weight.zero_()
        block.value.weight[0] = 1
        block.value.bias.zero_()
    # two voxels, two channels; over space (1, 3) and (5, 9) become (-1, 1), (6, 2) becomes (1, -1)
    first = torch.tensor([[1.0, 3.0], [5.0, 9.0]]).view(1, 2, 2, 1, 1)
    second = torch.tensor([[1.0, 3.0], [6.0, 2.0]]).view(1, 2, 2, 1, 1)
    # channel products: (1, 1) and (-1, -1): their mean over channels is 0, so the gate is open
    torch.testing.assert_close(
        block.correlation(first, second).flatten(), torch.zeros(2), atol=1e-4, rtol=0
    )
    # V = (1 + 6) - (1 + 5) = 1 and (3 + 2) - (3 + 9) = -7; ReLU keeps the first alone
    torch.testing.assert_close(
        block.gated(first, second)[0, 0].flatten(), torch.tensor([1.0, -7.0]), atol=1e-3, rtol=1e-4
    )
    # identical visits: both products are 1, alpha is 1 and the gate is shut
    torch.testing.assert_close(
        block.correlation(first, first).flatten(), torch.ones(2), atol=1e-4, rtol=0
    )
    # group norm over the four channels of one group, (1, 0, 0, 0) against zeros elsewhere
    values = torch.zeros(1, 4, 2, 1, 1)
    values[0, 0, 0] = 1.0
    torch.testing.assert_close(
        block(first, second), torch.nn.functional.group_norm(values, 1), atol=1e-3, rtol=1e-3
    )


def test_the_difference_of_equation_1_by_hand():
    """The features above, standardised: (-1, 1) twice against (-1, 1) and (1, -1), V = (2, -2)."""
    block = gate(difference="standardised")
    with torch.no_grad():
        for conv in (block.query, block.key):
            conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1, 1))
            conv.bias.zero_()
        block.value.weight.zero_()
        block.value.weight[0] = 1
        block.value.bias.fill_(0.25)
    first = torch.tensor([[1.0, 3.0], [5.0, 9.0]]).view(1, 2, 2, 1, 1)
    second = torch.tensor([[1.0, 3.0], [6.0, 2.0]]).view(1, 2, 2, 1, 1)
    torch.testing.assert_close(
        block.gated(first, second)[0, 0].flatten(),
        torch.tensor([2.25, -1.75]),
        atol=1e-3,
        rtol=1e-4,
    )
    # the single voxel of a deep bottleneck has no deviation: nothing of the visits is left
    one, other = torch.randn(2, 1, 2, 1, 1, 1)
    torch.testing.assert_close(
        block.gated(one, other)[0, 0].flatten(), torch.tensor([0.25]), atol=1e-6, rtol=0
    )
    with pytest.raises(ValueError, match="difference"):
        gate(difference="equation")


def test_half_correlated_features_half_close_the_gate():
    block = gate(query=2)
    with torch.no_grad():
        for conv in (block.query, block.key):
            conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1, 1))
            conv.bias.zero_()
    # channel 0 agrees (product 1); channel 1 is constant at the second visit (0): alpha = 1/2
    first = torch.tensor([[1.0, 3.0], [5.0, 9.0]]).view(1, 2, 2, 1, 1)
    second = torch.tensor([[1.0, 3.0], [4.0, 4.0]]).view(1, 2, 2, 1, 1)
    torch.testing.assert_close(
        block.correlation(first, second).flatten(), torch.full((2,), 0.5), atol=1e-4, rtol=0
    )
    expected = 0.5 * block.value(second - first)
    torch.testing.assert_close(block.gated(first, second), expected, atol=1e-4, rtol=1e-3)


def test_identical_visits_leave_the_value_path_its_bias():
    block = gate(8, 8, 4)
    features = torch.randn(2, 8, 6, 6, 6)
    value = block.value(features - features)
    torch.testing.assert_close(value, block.value.bias.view(1, 8, 1, 1, 1).expand_as(value))


def test_with_query_and_key_tied_identical_visits_have_a_mean_alpha_of_one():
    block = gate(8, 8, 4)
    block.key.load_state_dict(block.query.state_dict())
    features = torch.randn(2, 8, 6, 6, 6)
    alpha = block.correlation(features, features)
    assert float(alpha.detach().max()) > 1.2  # over space, a voxel may exceed 1: hence the clamp
    torch.testing.assert_close(alpha.mean((1, 2, 3, 4)), torch.ones(2), atol=1e-3, rtol=0)


def test_channel_wise_standardisation_is_the_pearson_coefficient():
    block = gate(8, 8, 4, standardise="channels")
    first, second = torch.randn(1, 8, 3, 3, 3), torch.randn(1, 8, 3, 3, 3)
    with torch.no_grad():
        query, key = block.query(first)[0, :, 1, 2, 0], block.key(second)[0, :, 1, 2, 0]
        expected = torch.corrcoef(torch.stack([query, key]))[0, 1].abs()
        alpha = block.correlation(first, second)
    torch.testing.assert_close(alpha[0, 0, 1, 2, 0], expected, atol=1e-3, rtol=1e-3)
    assert float(alpha.max()) <= 1 + 1e-5


def test_independent_features_open_the_gate():
    block = gate(64, 8, 64)
    first, second = torch.randn(1, 64, 8, 8, 8), torch.randn(1, 64, 8, 8, 8)
    with torch.no_grad():
        for conv in (block.query, block.key):
            conv.weight.copy_(torch.eye(64).view(64, 64, 1, 1, 1))
        # the mean of 64 products of unit variance: |N(0, 1/64)| averages sqrt(2/pi)/8 = 0.1
        assert float(block.correlation(first, second).mean()) == pytest.approx(0.1, abs=0.02)
        value = block.value(second - first)
        ratio = (block.gated(first, second) * value).sum() / value.square().sum()
    assert 0.85 < float(ratio) < 0.95


def test_the_encoder_is_one_set_of_tensors_and_both_visits_teach_it():
    torch.manual_seed(0)
    network = CorrelationUNet(SMALL)
    names = [name for name, _ in network.named_parameters() if "encoder.levels.0" in name]
    assert len(names) == 6, "convolution, shortcut and norm, once for both visits"
    images = torch.randn(2, 2, 8, 8, 8)
    weight = network.encoder.levels[0].conv.weight

    def gradient(detached):
        """The slope with one visit's way through the encoder cut."""
        network.zero_grad()
        ways = []
        for visit in range(2):
            skips, pooled = network.encoder(images[:, visit : visit + 1])
            features = [*skips, pooled]
            ways.append([f.detach() for f in features] if visit in detached else features)
        *skips, deepest = (g(a, b) for g, a, b in zip(network.gates, *ways, strict=True))
        network.head(network.decoder(deepest, skips)).square().sum().backward()
        return weight.grad.clone()

    network.zero_grad()
    network(images).square().sum().backward()
    both = weight.grad.clone()
    first, second = gradient({1}), gradient({0})
    assert float(first.abs().max()) > 0 and float(second.abs().max()) > 0
    torch.testing.assert_close(both, first + second, rtol=1e-3, atol=1e-3)


def test_it_keeps_the_contract_of_networks():
    torch.manual_seed(0)
    check_network(CorrelationUNet(SMALL), torch.randn(2, 2, 8, 12, 16))


def test_a_bottleneck_of_one_voxel_is_allowed_and_trains():
    torch.manual_seed(0)
    network = CorrelationUNet(SMALL).train()
    network(torch.randn(1, 2, 4, 4, 4)).square().mean().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())


def test_the_autoencoder_treats_visits_alike():
    torch.manual_seed(0)
    network = PairAutoencoder(SMALL)
    images = torch.randn(2, 2, 8, 8, 8)
    one, other = network(images), network(images.flip(1))
    assert one.logits.shape == images.shape and one.images is images
    assert len(one.first) == len(one.second) == 3  # two levels and the bottleneck
    for ours, theirs in zip(one.first, other.second, strict=True):
        torch.testing.assert_close(ours, theirs)
    twin = network(images[:, :1].expand(-1, 2, -1, -1, -1))
    for ours, theirs in zip(twin.first, twin.second, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_pretrained_encoder_starts_the_network_and_nothing_else_moves():
    torch.manual_seed(0)
    trained = PairAutoencoder(SMALL).requires_grad_(False)
    torch.manual_seed(1)
    network = CorrelationUNet(SMALL, pretrained=trained)
    torch.manual_seed(1)
    plain = CorrelationUNet(SMALL)
    for name, weight in network.named_parameters():
        assert weight.requires_grad
        if name.startswith("encoder."):
            torch.testing.assert_close(weight, trained.get_parameter(name))
            assert weight.data_ptr() != trained.get_parameter(name).data_ptr()
        else:
            torch.testing.assert_close(weight, plain.get_parameter(name))


def test_other_widths_or_images_are_refused():
    with pytest.raises(MssegError, match="does not fit") as error:
        CorrelationUNet(SMALL, pretrained=PairAutoencoder([4, 8, 16, 16]))
    assert error.value.exit_code == ExitCode.CONFIG
    for shape in ((1, 3, 8, 8, 8), (1, 2, 8, 8, 6)):
        with pytest.raises(MssegError, match="two images"):
            CorrelationUNet(SMALL)(torch.zeros(shape))
    with pytest.raises(ValueError, match="standardise"):
        gate(standardise="time")
