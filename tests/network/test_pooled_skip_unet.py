import pytest
import torch
from torch import nn

from msseg_lightning.network.pooled_skip_unet import PooledSkipUNet


def small(dims=2):
    torch.manual_seed(0)
    return PooledSkipUNet(4, [4, 8, 16, 32, 64], dims=dims).eval()


def test_parameters_of_the_authors_program():
    with torch.device("meta"):
        network = PooledSkipUNet()
    assert sum(weight.numel() for weight in network.parameters()) == 7_938_369


def test_a_batch_norm_stands_behind_the_first_activation_of_a_block():
    for block in (*small().encoder, small().bottom, *small().decoder):
        kinds = [type(layer).__name__ for layer in block]
        assert kinds == ["Conv2d", "ReLU", "BatchNorm2d", "Conv2d", "ReLU"]


def test_each_pooled_skip_is_the_pooled_features_widened_and_reaches_the_map():
    """Four of them, each alone: what is added is the convolution of what was pooled, and without
    it the map is another one."""
    network, images = small(), torch.randn(1, 4, 32, 32)
    assert len(network.pooled_skips) == 4
    pooled, added = [], []
    network.pool.register_forward_hook(lambda _, given, found: pooled.append(found))
    for skip in network.pooled_skips:
        skip.register_forward_hook(lambda _, given, found: added.append((given[0], found)))
    with torch.no_grad():
        before = network(images)
        assert [tuple(found.shape[1:]) for _, found in added] == [
            (8, 16, 16),
            (16, 8, 8),
            (32, 4, 4),
            (64, 2, 2),
        ]
        for (given, _), features in zip(added, pooled, strict=True):
            assert torch.equal(given, features)
        for skip in network.pooled_skips:
            kept = [weight.clone() for weight in (skip.weight, skip.bias)]
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)
            assert not torch.allclose(network(images), before)
            skip.weight.copy_(kept[0])
            skip.bias.copy_(kept[1])


def test_pooled_skips_are_added_behind_the_bottom_and_the_three_coarsest_decoder_blocks():
    """Without weights on the way, what meets the next layer is the skip itself."""
    network, images = small(), torch.randn(1, 4, 32, 32)
    added, given = [], []
    for block in (network.bottom, *network.decoder):
        nn.init.zeros_(block[3].weight)  # its last convolution: every block answers with 0
    for skip in network.pooled_skips:
        skip.register_forward_hook(lambda _, __, found: added.append(found))
    for layer in (*network.ups, network.head):
        layer.register_forward_hook(lambda _, features, __: given.append(features[0]))
    with torch.no_grad():
        network(images)
    for expected, found in zip(reversed(added), given[:4], strict=True):
        assert torch.equal(found, expected)
    assert not given[4].any()  # nothing is added at the full size


def test_kernels_are_drawn_as_keras_does():
    """He normal but for the head and the transposed convolutions, which are Glorot's."""
    torch.manual_seed(0)
    network = PooledSkipUNet()
    for layer, fan in ((network.bottom[3], 9 * 512), (network.pooled_skips[3], 256)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.02)
        assert layer.weight.abs().max() > 3 * (2 / fan) ** 0.5  # normal, not uniform
        assert not layer.bias.any()
    bound = (6 / (4 * (512 + 256))) ** 0.5
    assert float(network.ups[0].weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)


def test_widths_that_do_not_double_are_refused():
    with pytest.raises(ValueError, match="twice"):
        PooledSkipUNet(4, [8, 16, 24])


def test_in_3d_too():
    network = PooledSkipUNet(4, [4, 8, 16], dims=3).eval()
    assert network.divisor == (4, 4, 4)
    with torch.no_grad():
        assert tuple(network(torch.randn(1, 4, 8, 4, 8)).shape) == (1, 1, 8, 4, 8)
