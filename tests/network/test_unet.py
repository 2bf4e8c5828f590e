import itertools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from msseg_lightning.core.network import DeepLogits
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.network.blocks import Activation, Block, Down, Norm, Up, initialise
from msseg_lightning.network.unet import UNet

PRESETS = Path(__file__).parents[2] / "conf" / "network"


def preset(name, **changes):
    config = OmegaConf.merge(OmegaConf.load(PRESETS / f"{name}.yaml"), changes)
    with torch.device("meta"):  # counting needs no numbers
        return instantiate(config)


def count(network):
    return sum(weight.numel() for weight in network.parameters())


def small(heads=3, **changes):
    block = Block("norm_act_conv", True, norm=Norm("group", groups=2))
    settings = {"stem": True, "heads": heads, **changes}
    return UNet(2, [4, 6, 8, 10], block, Down(), Up(kernel=3), **settings)


def test_pre_unet_has_the_papers_parameters():
    assert count(preset("pre_unet")) == 26_265_603


def test_antialiased_unet_has_the_papers_parameters():
    assert count(preset("antialiased_unet")) == 9_472_282


def test_nnunet_has_its_parameters():
    """Two 3^3 convolutions per level and way, transposed 2^3 convolutions, norms, four heads."""
    widths, total = [32, 64, 128, 256, 320, 320], 0
    for before, width in zip([2, *widths], widths, strict=False):
        total += 27 * width * (before + width) + 2 * 3 * width  # bias, and weight and bias of norm
    for fine, coarse in itertools.pairwise(widths):
        total += 8 * coarse * fine + fine + 27 * fine * 3 * fine + 6 * fine
    total += sum(width + 1 for width in widths[:4])
    assert count(preset("nnunet")) == total == 31_195_332


def test_images_of_minus_one_to_one_are_prepared_from_zero_on():
    torch.manual_seed(0)
    block = Block(norm=Norm("none"))
    network = UNet(2, [4, 6], block, Down(), Up(), offset=-1.0).eval()
    images = torch.rand(1, 2, 8, 8, 8) * 2
    with torch.no_grad():
        answer = network(images)
        network.offset = 0.0
        torch.testing.assert_close(answer, network(images - 1))
        assert not torch.allclose(answer, network(images))


def test_a_wider_head_keeps_the_size():
    network = UNet(2, [4, 6], Block(), Down(), Up(), head_kernel=3, out_channels=2)
    assert network.heads[0].kernel_size == (3, 3, 3)
    assert tuple(network(torch.randn(2, 2, 8, 8, 8)).shape) == (2, 2, 8, 8, 8)


def test_pre_unet_norm_act_conv_by_hooks():
    """Every 3x3x3 convolution but stem and upsampling is fed by LeakyReLU fed by group norm."""
    network = preset("pre_unet", widths=[8, 16, 24, 32, 40]).to_empty(device="cpu")
    seen = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, *_, name=name: seen.append((name, m)))
    network(torch.zeros(1, 2, 16, 16, 16))
    convolutions = 0
    for (_, norm), (_, act), (name, _) in zip(seen, seen[1:], seen[2:], strict=False):
        if name.endswith("1.conv"):  # second unit: nothing can come between
            assert isinstance(norm, nn.GroupNorm) and isinstance(act, nn.LeakyReLU)
            assert norm.num_groups == 8
            convolutions += 1
    firsts = [index for index, (name, _) in enumerate(seen) if name.endswith("0.conv")]
    for index in firsts:  # the shortcut may run between activation and convolution
        before = [m for n, m in seen[:index] if not n.endswith("shortcut")][-2:]
        assert isinstance(before[0], nn.GroupNorm) and isinstance(before[1], nn.LeakyReLU)
    assert convolutions == 9 and len(firsts) == 9
    strided = [m for _, m in seen if isinstance(m, nn.Conv3d) and m.stride == (2, 2, 2)]
    assert [m.kernel_size[0] for m in strided] == [1, 3] * 4  # shortcut, first convolution


def test_three_outputs_in_training_one_in_evaluation():
    network, images = small(), torch.randn(1, 2, 16, 8, 24)
    output = network(images)
    assert isinstance(output, DeepLogits)
    assert tuple(output.logits.shape) == (1, 1, 16, 8, 24)
    assert [tuple(o.shape) for o in output.deeper] == [(1, 1, 8, 4, 12), (1, 1, 4, 2, 6)]
    torch.testing.assert_close(network.eval()(images), output.logits)


def test_one_head_gives_plain_logits():
    assert isinstance(small(heads=1)(torch.randn(1, 2, 8, 8, 8)), torch.Tensor)


def test_without_heads_the_answer_is_the_features_of_the_finest_level():
    network = small(heads=0)
    assert network(torch.randn(2, 2, 8, 16, 8)).shape == (2, 4, 8, 16, 8)
    assert not len(network.heads)
    images = torch.randn(1, 2, 8, 8, 8)
    headed = small(heads=1)
    headed.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(headed.heads[0](network(images)), headed(images))


@pytest.mark.parametrize("heads", [-1, 5])
def test_heads_must_fit_the_levels(heads):
    with pytest.raises(ValueError, match="heads do not fit"):
        small(heads=heads)


def test_indivisible_patch_is_refused_in_words():
    with pytest.raises(MssegError, match="16x12x16") as caught:
        small()(torch.zeros(1, 2, 16, 12, 16))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert "divisible by 8x8x8" in str(caught.value)


def test_other_number_of_images_is_refused_in_words():
    with pytest.raises(MssegError, match="found 3; expected 2") as caught:
        small()(torch.zeros(1, 3, 16, 16, 16))
    assert caught.value.exit_code == ExitCode.CONFIG


def test_skips_join_equal_positions():
    """A shift of the images by the divisor shifts the logits: no level is misaligned."""
    torch.manual_seed(0)
    block = Block("conv_norm_act", norm=Norm("none"))
    for up in (Up(), Up(kernel=3), Up("linear")):
        network = UNet(1, [4, 6, 8], block, Down(), up).eval()
        impulse = torch.zeros(1, 1, 96, 8, 8)
        impulse[..., 44, 4, 4] = 1
        with torch.no_grad():
            still, shifted = network(impulse), network(impulse.roll(4, 2))
        inner = (..., slice(28, 64), slice(None), slice(None))  # farther than padding reaches
        assert float(still[inner].std()) > 0
        torch.testing.assert_close(shifted.roll(-4, 2)[inner], still[inner], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "network"),
    [
        (
            "S21",
            354_353,
            lambda: UNet(
                2,
                [16, 32, 64],
                Block(norm=Norm("group", groups=8), activation=Activation("relu")),
                Down("max_pool"),
                Up("linear"),
            ),
        ),
        (
            "S10",
            5_840_101,
            lambda: UNet(
                2,
                [32, 64, 128, 256],
                Block("norm_conv_act", norm=Norm("group", groups=8), activation=Activation("relu")),
                Down("max_pool", dropout=0.5),
                Up("linear"),
                first_norm=Norm("group", groups=1),
            ),
        ),
        (
            "S14",
            31_042_945,
            lambda: UNet(
                2,
                [64, 128, 256, 512, 1024],
                Block(norm=Norm("batch"), activation=Activation("relu"), bias=True),
                Down("max_pool"),
                Up(),
                dims=2,
            ),
        ),
    ],
)
def test_the_family_has_the_other_papers_parameters(name, parameters, network):
    with torch.device("meta"):
        assert count(network()) == parameters, name


def test_a_new_network_answers_with_its_prior():
    torch.manual_seed(0)
    network = small(heads=3, prior=0.01)
    outputs = network(torch.randn(2, 2, 16, 16, 16))
    for logits in (outputs.logits, *outputs.deeper):
        assert 0.002 < float(logits.sigmoid().mean()) < 0.05
    assert float(small(heads=1)(torch.randn(2, 2, 16, 16, 16)).sigmoid().mean()) > 0.2
    with pytest.raises(ValueError, match="prior"):
        small(prior=1.0)


def test_subtraction_unet_2d_has_the_cited_networks_parameters():
    network = preset("subtraction_unet_2d")
    assert count(network) == 3_294_849
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    # one per level, down and up; skips of 128 and 32 channels join what was enlarged
    found = [(layer.in_channels, layer.out_channels) for layer in convolutions]
    down = [(1, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    assert found == [*down, (512, 256), (256 + 128, 128), (128, 64), (64 + 32, 32), (32, 1)]


@pytest.mark.parametrize("skips", [(0, 2), (1,), ()])
def test_only_the_named_levels_hand_their_features_over(skips):
    torch.manual_seed(0)
    block = Block("conv_norm_act", units=1, norm=Norm("none"), activation=Activation("relu"))
    up = Up("nearest")
    network = UNet(1, [4, 6, 8, 10], block, Down("max_pool"), up, skips=skips, dims=2).eval()
    handed, given = {}, {}
    for level, part in enumerate(network.encoder):
        part.register_forward_hook(lambda _, images, out, at=level: handed.update({at: out}))
    for level, part in zip((2, 1, 0), network.decoder, strict=True):
        part.register_forward_hook(lambda _, images, out, at=level: given.update({at: images[0]}))
    network(torch.rand(1, 1, 16, 16))
    for level, enlarged in ((2, 10), (1, 8), (0, 6)):
        features = handed[level] if level in skips else handed[level][:, :0]
        assert given[level].shape[1] == features.shape[1] + enlarged
        torch.testing.assert_close(given[level][:, : features.shape[1]], features)
    with pytest.raises(ValueError, match="levels 0 to 2"):
        UNet(1, [4, 6, 8, 10], block, Down("max_pool"), up, skips=[3], dims=2)


def test_the_nearest_neighbour_repeats_voxels():
    up = Up("nearest")
    assert up.channels(8, 4) == 8
    given = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = given.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up.build(1, 1, (2, 2))(given), expected)


@pytest.mark.parametrize("kind", ["xavier", "he"])
def test_kernels_are_drawn_as_named(kind):
    """3x3, 8 in and 24 out: Xavier is uniform to sqrt(6 / (9 * 32)), He has SD sqrt(2 / 72)."""
    layer = nn.Conv2d(8, 24, 3)
    before = layer.weight.clone()
    torch.manual_seed(0)
    initialise(nn.Sequential(layer), kind)
    assert not torch.equal(before, layer.weight) and not layer.bias.any()
    if kind == "xavier":
        limit = (6 / (9 * 32)) ** 0.5
        assert 0.95 * limit < layer.weight.abs().max() <= limit
    else:
        assert layer.weight.std().item() == pytest.approx((2 / 72) ** 0.5, rel=0.05)
        assert layer.weight.abs().max() > 2 * (2 / 72) ** 0.5
    plain = nn.Conv2d(8, 24, 3)
    before = plain.weight.clone()
    initialise(plain, "torch")
    assert torch.equal(before, plain.weight) and plain.bias.any()
    with pytest.raises(ValueError, match="xavier"):
        initialise(plain, "ones")
