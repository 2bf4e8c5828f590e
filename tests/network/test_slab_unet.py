"""A slab of seven slices becomes its middle one, which all of them and no others influence."""

import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.network.slab_unet import (
    DenseUnit,
    DepthReduction,
    FeatureAttention,
    SlabUNet,
    _in_plane,
)


def small(in_channels=2, **settings):
    torch.manual_seed(1)
    sizes = {"slab_width": 4, "width": 8, "growth": 3, "dilations": [1, 2], "units": 2}
    return SlabUNet(in_channels, **(sizes | settings)).eval()


@pytest.mark.parametrize(
    ("slab_width", "width", "growth", "count"), [(32, 64, 16, 4_485_634), (32, 32, 12, 2_177_210)]
)
def test_parameters_of_the_published_layouts(slab_width, width, growth, count):
    with torch.device("meta"):
        network = SlabUNet(4, slab_width=slab_width, width=width, growth=growth)
    assert sum(weight.numel() for weight in network.parameters()) == count
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    norms = [m for m in network.modules() if isinstance(m, nn.InstanceNorm2d | nn.InstanceNorm3d)]
    assert norms and not any(norm.affine for norm in norms)


def test_a_slab_of_seven_slices_gives_its_middle_one():
    network = small()
    images = torch.randn(3, 2, 7, 10, 12)
    answer = network(images)
    assert answer.shape == (3, 1, 10, 12)
    for number in range(7):
        changed = images.clone()
        changed[:, :, number] += torch.randn(3, 2, 10, 12)
        assert (network(changed) - answer).abs().max() > 1e-3, number


def test_slices_1_and_7_influence_a_prediction_and_0_and_8_do_not():
    """Of a volume of nine slices the middle one, numbered 4, is seen with those from 1 to 7."""
    network = small()
    rule = SliceWise(["axial"], depth=7, layout="depth", combine_at="logit")
    images = torch.randn(2, 8, 8, 9)
    middle = rule(network, images)[..., 4]
    for number, seen in ((0, False), (1, True), (7, True), (8, False)):
        changed = images.clone()
        changed[..., number] += torch.randn(2, 8, 8)
        assert torch.equal(rule(network, changed)[..., 4], middle) != seen, number


def test_dense_units_append_and_attention_weighs_each_feature():
    features = torch.randn(2, 8, 6, 6)
    grown = DenseUnit(8, 3, 2)(features)
    assert grown.shape == (2, 11, 6, 6) and torch.equal(grown[:, :8], features)
    weighed = FeatureAttention(8)(features)
    share = weighed / features
    assert weighed.shape == features.shape and share.min() > 0 and share.max() < 1
    assert share.std((2, 3)).min() > 0
    network = small(dilations=[1, 2, 4, 8], units=4)
    kinds = [type(module).__name__ for module in network.coarse]
    assert kinds == (["DenseUnit"] * 4 + ["FeatureAttention"]) * 4
    reach = [m.convolution[1].dilation[0] for m in network.coarse if isinstance(m, DenseUnit)]
    assert reach == [1] * 4 + [2] * 4 + [4] * 4 + [8] * 4


def test_a_slice_is_continued_by_its_border():
    layer = _in_plane(1, 1, 3)
    with torch.no_grad():
        layer[1].weight.fill_(1.0)
        layer[1].bias.zero_()
    assert torch.equal(layer(torch.full((1, 1, 5, 5), 2.0)), torch.full((1, 1, 5, 5), 18.0))
    thinner = DepthReduction(1, 1)
    with torch.no_grad():
        thinner.convolution.weight.fill_(1.0)
    answer = thinner(torch.full((1, 1, 3, 5, 5), 2.0))
    assert answer.shape == (1, 1, 1, 5, 5) and answer.max() < 1e-2  # even, so the norm leaves 0


def test_the_head_of_variances_is_not_trained_and_may_be_left_out():
    network = small()
    network(torch.randn(1, 2, 7, 8, 8)).sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == ["log_variance.weight", "log_variance.bias"]
    assert not any(weight.requires_grad for weight in network.log_variance.parameters())
    assert small(log_variance=False).log_variance is None


def test_pretrained_weights_of_other_input_channels_give_equal_features():
    """Equal images in 3 or 4 channels: the first convolution answers alike."""
    first = small(3)
    network = small(4, pretrained=first)
    given, taken = first.state_dict(), network.state_dict()
    widened = "reduce.0.convolution.weight"
    assert all(torch.equal(taken[name], given[name]) for name in given if name != widened)
    torch.testing.assert_close(taken[widened][:, :3], given[widened] * 0.75)
    torch.testing.assert_close(taken[widened][:, 3], given[widened].mean(1) * 0.75)
    scan = torch.randn(1, 1, 7, 8, 8)
    expected = first(scan.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(network(scan.expand(-1, 4, -1, -1, -1)), expected)
    same = small(3, pretrained=first).state_dict()
    assert torch.equal(same[widened], given[widened])
    for other in (small(3, width=4), nn.Identity()):
        with pytest.raises(ValueError, match="another layout"):
            small(4, pretrained=other)


def test_slabs_that_do_not_fit_are_refused():
    network = small()
    for shape in ((1, 2, 5, 8, 8), (1, 3, 7, 8, 8), (1, 2, 7, 9, 8), (1, 14, 8, 8)):
        with pytest.raises(MssegError, match="does not fit") as caught:
            network(torch.zeros(shape))
        assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(ValueError, match="odd number"):
        SlabUNet(2, slices=4)
