import dataclasses

import pytest
import torch
from torch import nn

from msseg_lightning.network.blocks import (
    Activation,
    Block,
    Blurred,
    Down,
    InstanceNorm,
    Norm,
    ResidualBlock,
    Unit,
    Up,
    begin_at,
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


@pytest.mark.parametrize("order", ["conv_norm_act", "norm_act_conv", "norm_conv_act"])
@pytest.mark.parametrize("norm", [Norm("instance"), Norm("none")])
@pytest.mark.parametrize("activation", [Activation("relu"), Activation("leaky_relu", 0.2)])
@pytest.mark.parametrize("shortcut", [None, "identity", "convolution"])
def test_predicting_overwrites_nothing_that_is_still_needed(order, norm, activation, shortcut):
    recipe = Block(order, shortcut is not None, norm=norm, activation=activation)
    if shortcut is not None:
        recipe = dataclasses.replace(recipe, shortcut=shortcut)
    block = recipe.build(4, 4, KERNEL, ONE).eval()
    features = torch.randn(1, 4, 5, 4, 6)
    before, learning = features.clone(), block(features)
    with torch.inference_mode():
        assert torch.equal(block(features), learning)
    assert torch.equal(features, before)


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
    down = Down("max_pool", dropout=0.5).build(TWO, 4)
    output = down(torch.ones(1, 16, 16, 16, 16))
    assert abs(float((output == 0).float().mean()) - 0.5) < 0.02
    assert bool((down.eval()(torch.ones(1, 1, 4, 4, 4)) == 1).all())
    channels = Down("max_pool", 0.5, whole_channels=True).build(TWO, 16)(torch.ones(1, 16, 4, 4, 4))
    assert set(channels.mean((0, 2, 3, 4)).tolist()) <= {0.0, 2.0}


def test_per_axis():
    assert per_axis(2, 3) == (2, 2, 2) and per_axis([1, 2, 2], 3) == (1, 2, 2)
    with pytest.raises(ValueError, match="needs 3 numbers"):
        per_axis([1, 2], 3)


def test_blurred_kernels_are_four_wide_and_halve_or_double():
    torch.manual_seed(0)
    down, up = Down("blurred").build(TWO, 6), Up("blurred").build(6, 4, TWO)
    assert isinstance(down, Blurred) and isinstance(up, Blurred)
    for module, edges in ((down, (5, 3, 2)), (up, (20, 12, 8))):
        assert tuple(module.kernel().shape) == (6, 6, 4, 4, 4)
        assert tuple(module(torch.randn(1, 6, 10, 6, 4)).shape) == (1, 6, *edges)
    assert Up("blurred").channels(6, 4) == 6
    # a kernel of ones along one axis: 1 1 1 smeared by 1/2 1/2 is 1/2 1 1 1/2
    with torch.no_grad():
        down.convolution.weight.fill_(1)
    line = torch.tensor([0.5, 1, 1, 0.5])
    expected = torch.einsum("i,j,k->ijk", line, line, line)
    torch.testing.assert_close(down.kernel()[2, 3], expected)
    assert len(down.state_dict()) == 2  # weight and bias: the box is no weight


def test_blurred_is_the_plain_convolution_of_averaged_features():
    """Down: plain stride 2 after a 2^3 box filter. Flat axes (stride 1) are left sharp."""
    torch.manual_seed(0)
    for stride in (TWO, (1, 2, 2)):
        module = Blurred(3, stride, up=False, gain=0.25)
        features = torch.randn(1, 3, 8, 8, 8)
        pad = [edge for step in reversed(stride) for edge in (0, step - 1)]
        box = torch.full((3, 1, *stride), 1 / torch.tensor(stride).prod().item())
        blurred = nn.functional.conv3d(nn.functional.pad(features, pad), box, groups=3)
        plain = module.convolution
        expected = nn.functional.conv3d(
            blurred, plain.weight * 0.25, plain.bias, stride=stride, padding=1
        )
        answer = module(features)
        inner = (..., slice(1, None), slice(1, None), slice(1, None))  # away from the padding
        torch.testing.assert_close(answer[inner], expected[inner])


def test_enlarging_keeps_the_size_of_the_features():
    """The box of the way up sums to 8: a kernel that copies the middle copies a flat map."""
    up = Blurred(1, TWO, up=True)
    with torch.no_grad():
        up.convolution.weight.zero_()
        up.convolution.bias.zero_()
        up.convolution.weight[0, 0, 1, 1, 1] = 1
        inner = up(torch.ones(1, 1, 4, 4, 4))[..., 2:-2, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_blurring_lessens_what_a_shift_of_one_voxel_changes():
    """S13: the answer to a shifted input differs less than with a plain strided convolution."""
    torch.manual_seed(0)
    blurred = Blurred(4, TWO, up=False)
    images = torch.randn(2, 4, 24, 24, 24)
    images = nn.functional.avg_pool3d(images, 3, 1, 1)  # scans are smooth
    with torch.no_grad():

        def change(run):
            still, moved = run(images), run(images.roll(1, 2))
            return float((still - moved).square().mean() / still.var())

        plain = change(blurred.convolution)
        assert change(blurred) < 0.6 * plain  # 0.53


def test_convolved_shortcut_joins_after_the_last_activation():
    torch.manual_seed(0)
    block = Block(
        residual=True,
        shortcut="convolution",
        norm=Norm("batch"),
        bias=False,
        activation=Activation("relu"),
    ).build(4, 4, KERNEL, ONE)
    features = torch.randn(2, 4, 6, 6, 6)
    inner = block.units(features)
    assert float(inner.detach().min()) == 0  # ends with the ReLU
    torch.testing.assert_close(block(features), inner + block.shortcut(features))
    assert block.shortcut.kernel_size == KERNEL and block.shortcut.bias is not None
    assert float(block(features).detach().min()) < 0  # nothing follows the sum
    assert all(unit.conv.bias is None for unit in block.units)
    with pytest.raises(ValueError, match="shortcut"):
        Block(shortcut="sum")


def test_biases_say_a_prior():
    one, other = nn.Conv2d(3, 2, 1), nn.Conv3d(3, 1, 1)
    begin_at(0.2, one, other)
    for head in (one, other):
        torch.testing.assert_close(head.bias.sigmoid(), torch.full_like(head.bias, 0.2))
    begin_at(None, one)
    assert float(one.bias.sigmoid()[0]) == pytest.approx(0.2)
    for prior in (0.0, 1.0):
        with pytest.raises(ValueError, match="prior"):
            begin_at(prior, one)
