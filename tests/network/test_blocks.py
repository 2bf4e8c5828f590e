import pytest
import torch
from torch import nn

from msseg_lightning.network.blocks import (
    Activation,
    Block,
    Down,
    InstanceNorm,
    Norm,
    ResidualBlock,
    Unit,
    Up,
    per_axis,
)

KERNEL, ONE, TWO = (3, 3, 3), (1, 1, 1), (2, 2, 2)


def test_instance_norm_equals_torch_and_survives_one_voxel():
    features = torch.randn(2, 4, 3, 5, 2) * 3 + 7
    ours, torchs = InstanceNorm(4), nn.InstanceNorm3d(4, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    torchs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(features), torchs(features))
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        torchs(features[:, :, :1, :1, :1])
    # one voxel: its mean is itself, so (x - mean) / sqrt(0 + eps) = 0 and the bias remains
    single = ours(features[:, :, :1, :1, :1])
    torch.testing.assert_close(single[0, :, 0, 0, 0], ours.bias)
    single.sum().backward()
    assert ours.weight.grad.abs().sum() == 0 and bool((ours.bias.grad == 2).all())


@pytest.mark.parametrize("dims", [2, 3])
def test_norm_recipes(dims):
    group = Norm("group", groups=8).build(32, dims)
    assert (group.num_groups, group.num_channels) == (8, 32)
    assert Norm("group", channels_per_group=8).build(32, dims).num_groups == 4
    assert isinstance(Norm("batch").build(3, dims), (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2])
    assert isinstance(Norm("none").build(3, dims), nn.Identity)
    with pytest.raises(ValueError, match="2 channels do not divide"):
        Norm("group", groups=8).build(2, dims)  # eight groups of two images: S10's trap
    with pytest.raises(ValueError, match="12 channels do not divide"):
        Norm("group", channels_per_group=8).build(12, dims)
    for wrong in ({"kind": "group"}, {"kind": "batch", "groups": 2}, {"kind": "layer"}):
        with pytest.raises(ValueError):
            Norm(**wrong)


@pytest.mark.parametrize("order", ["conv_norm_act", "norm_act_conv", "norm_conv_act"])
@pytest.mark.parametrize("residual", [False, True])
def test_order_of_execution(order, residual):
    block = Block(order, residual, norm=Norm("group", groups=2)).build(4, 8, KERNEL, TWO)
    seen = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv3d | nn.GroupNorm | nn.LeakyReLU):
            module.register_forward_hook(lambda *_, name=name: seen.append(name.split(".")[-1]))
    assert tuple(block(torch.randn(1, 4, 6, 4, 8)).shape) == (1, 8, 3, 2, 4)
    assert [name for name in seen if name != "shortcut"] == order.split("_") * 2


def test_preactivated_shortcut_sees_the_activated_input():
    block = Block("norm_act_conv", True, norm=Norm("group", groups=2)).build(4, 8, KERNEL, TWO)
    assert isinstance(block, ResidualBlock)
    nn.init.zeros_(block.units[1].conv.weight)
    nn.init.zeros_(block.units[1].conv.bias)
    features = torch.randn(2, 4, 4, 4, 4)
    activated = nn.functional.leaky_relu(nn.functional.group_norm(features, 2), 0.01)
    expected = nn.functional.conv3d(activated, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(features), expected)


def test_identity_shortcut_carries_the_raw_input():
    block = Block("norm_act_conv", True, norm=Norm("group", groups=2)).build(4, 4, KERNEL, ONE)
    nn.init.zeros_(block.units[1].conv.weight)
    nn.init.zeros_(block.units[1].conv.bias)
    assert block.shortcut is None
    features = torch.randn(1, 4, 4, 4, 4)
    torch.testing.assert_close(block(features), features)


def test_post_activation_adds_before_the_last_activation():
    block = Block("conv_norm_act", True, norm=Norm("none"), activation=Activation("relu"))
    built = block.build(2, 2, KERNEL, ONE)
    for unit in built.units:
        nn.init.zeros_(unit.conv.weight)
        nn.init.zeros_(unit.conv.bias)
    features = torch.randn(1, 2, 4, 4, 4)
    torch.testing.assert_close(built(features), features.relu())


def test_stride_sits_in_the_first_convolution():
    units = [m for m in Block().build(4, 8, KERNEL, TWO).modules() if isinstance(m, Unit)]
    assert [unit.conv.stride for unit in units] == [TWO, ONE]


@pytest.mark.parametrize("kernel", [None, 2, 3, 4])
@pytest.mark.parametrize("kind", ["transposed", "linear"])
def test_up_doubles_exactly(kernel, kind):
    up = Up(kind, kernel)
    module = up.build(8, 4, TWO)
    assert tuple(module(torch.randn(1, 8, 3, 5, 2)).shape) == (1, up.channels(8, 4), 6, 10, 4)


def test_up_along_some_axes_only():
    assert tuple(Up().build(8, 4, (1, 2, 2))(torch.randn(1, 8, 3, 5, 2)).shape) == (1, 4, 3, 10, 4)
    with pytest.raises(ValueError, match="cannot enlarge"):
        Up(kernel=2).build(8, 4, (1, 2, 2))  # an even kernel has no centre where nothing grows


def test_dropout_after_pooling_zeroes_half():
    torch.manual_seed(0)
    down = Down("max_pool", dropout=0.5).build(TWO)
    output = down(torch.ones(1, 16, 16, 16, 16))
    assert abs(float((output == 0).float().mean()) - 0.5) < 0.02
    assert bool((down.eval()(torch.ones(1, 1, 4, 4, 4)) == 1).all())
    channels = Down("max_pool", 0.5, whole_channels=True).build(TWO)(torch.ones(1, 16, 4, 4, 4))
    assert set(channels.mean((0, 2, 3, 4)).tolist()) <= {0.0, 2.0}


def test_per_axis():
    assert per_axis(2, 3) == (2, 2, 2) and per_axis([1, 2, 2], 3) == (1, 2, 2)
    with pytest.raises(ValueError, match="needs 3 numbers"):
        per_axis([1, 2], 3)
