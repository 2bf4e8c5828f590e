import itertools

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer import sliding_window
from msseg_lightning.infer.sliding_window import (
    UNSEEN_LOGIT,
    SlidingWindow,
    plan_windows,
    starts,
    window_weight,
)
from msseg_lightning.network.blocks import Block, Down, Norm, Up
from msseg_lightning.network.unet import UNet


class Position(nn.Module):
    """Answers differently in every window and at every place of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 1, 3, padding=1)

    def forward(self, images):
        return self.conv(images) + images.mean((1, 2, 3, 4), keepdim=True)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Position()


def images(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


def slow(network, volume, size, stride, weight, keep=lambda window: True):
    """The rule as one would write it down: loop, add, divide."""
    ranges = []
    for length, edge, step in zip(volume.shape[1:], size, stride, strict=True):
        first = list(range(0, length - edge, step))
        ranges.append([*first, length - edge])
    total, weights = torch.zeros(volume.shape[1:]), torch.zeros(volume.shape[1:])
    for corner in itertools.product(*ranges):
        window = tuple(slice(c, c + e) for c, e in zip(corner, size, strict=True))
        if keep(window):
            with torch.no_grad():
                total[window] += network(volume[(slice(None), *window)][None])[0, 0] * weight
            weights[window] += weight
    return total / weights, weights > 0


@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_equals_the_slow_rule(network, weighting, batch):
    volume = images(17, 12, 20)
    window = SlidingWindow((8, 6, 8), stride=(4, 3, 5), weighting=weighting, batch_size=batch)
    weight = window_weight((8, 6, 8), weighting, "cpu")
    expected, _ = slow(network, volume, (8, 6, 8), (4, 3, 5), weight)
    torch.testing.assert_close(window(network, volume)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(17, 12, 20), (8, 8, 8), (5, 13, 8), (3, 3, 4)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
def test_equals_monai(network, shape, overlap, weighting):
    """Same grid, same weights, same even padding of volumes smaller than the window."""
    volume = images(*shape)
    with torch.no_grad():
        mode = "constant" if weighting == "uniform" else "gaussian"
        expected = sliding_window_inference(
            volume[None], (8, 8, 8), 2, network, overlap=overlap, mode=mode
        )[0]
    result = SlidingWindow(8, overlap, weighting=weighting)(network, volume)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_empty_windows_are_skipped_and_nothing_inside_changes(network):
    volume, inside = images(24, 16, 16), torch.zeros(24, 16, 16, dtype=torch.bool)
    inside[3:6, 4:7, 9] = True
    calls = []
    network.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    kept = SlidingWindow(8, 0.5, batch_size=2)(network, volume, inside)
    # x: windows at 0, 4 of 0..16 hold 3..5; y: 0, 4; z: 4, 8: eight windows, two at a time
    assert calls == [2, 2, 2, 2]
    everything = SlidingWindow(8, 0.5, skip_empty=False)(network, volume, inside)
    _, seen = slow(
        network, volume, (8, 8, 8), (4, 4, 4), torch.ones(8, 8, 8), lambda w: inside[w].any()
    )
    torch.testing.assert_close(kept[0][inside], everything[0][inside])
    assert bool((kept[0][~seen] == UNSEEN_LOGIT).all()) and bool((kept[0][seen] > -19).all())
    probability = SlidingWindow(8, 0.5, level="probability")(network, volume, inside)
    assert bool((probability[0][~seen] == 0).all())


def test_box_tiling_covers_all_of_inside(network):
    inside = torch.zeros(30, 20, 9, dtype=torch.bool)
    inside[5:22, 9:12, 3:5] = True
    plan = plan_windows((30, 20, 9), (8, 8, 8), (4, 4, 4), inside, tiling="inside_box")
    # x: the box 5..22 is 17 long: windows at 5, 9, 13, 14; y: 3 grow to 8; z: 2 grow to 8
    assert sorted({corner[0] for corner in plan.starts}) == [5, 9, 13, 14]
    assert len({corner[1] for corner in plan.starts}) == 1 == len({c[2] for c in plan.starts})
    result = SlidingWindow(8, 0.5, tiling="inside_box")(network, images(30, 20, 9), inside)
    assert bool((result[0][inside] != UNSEEN_LOGIT).all())
    assert plan.box_shape == (17, 8, 8)  # sums cover no more than the windows


def test_box_tiling_of_a_volume_smaller_than_the_window(network):
    inside = torch.zeros(5, 20, 4, dtype=torch.bool)
    inside[4, 19, 3] = True
    result = SlidingWindow(8, 0.5, tiling="inside_box")(network, images(5, 20, 4), inside)
    assert tuple(result.shape) == (1, 5, 20, 4) and result[0, 4, 19, 3] != UNSEEN_LOGIT


def strided(levels):
    """A U-Net whose edges must divide by 2 ** (levels - 1)."""
    torch.manual_seed(0)
    recipe = Block(norm=Norm("instance"))
    return UNet(2, [4] * levels, recipe, Down("in_block"), Up()).eval()


def test_one_pass_is_the_network_on_the_box_of_inside():
    network, volume = strided(3), images(40, 23, 9)
    inside = torch.zeros(40, 23, 9, dtype=torch.bool)
    inside[5:22, 9:12, 3:5] = True
    calls = []
    network.register_forward_hook(lambda m, i, o: calls.append(tuple(o.shape[2:])))
    result = SlidingWindow(8, 0.5, weighting="gaussian", tiling="one_pass")(network, volume, inside)
    # 17, 3 and 2 voxels become multiples of four, grown evenly: 5 - 3 // 2 = 4, 9 - 0, 3 - 1
    assert calls == [(20, 4, 4)]
    place = (slice(None), slice(4, 24), slice(9, 13), slice(2, 6))
    with torch.no_grad():
        expected = network(volume[place][None])[0]
    torch.testing.assert_close(result[place], expected, rtol=1e-5, atol=1e-5)
    outside = torch.ones_like(inside)
    outside[place[1:]] = False
    assert bool((result[0][outside] == UNSEEN_LOGIT).all())


def test_one_pass_grows_beyond_a_volume_that_does_not_divide():
    network, volume = strided(4), images(13, 16, 9)
    result = SlidingWindow(8, 0.5, tiling="one_pass")(network, volume)
    padded = torch.nn.functional.pad(volume, (3, 4, 0, 0, 1, 2))  # 16 x 16 x 16, evenly
    with torch.no_grad():
        expected = network(padded[None])[0, :, 1:14, :, 3:12]
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_one_pass_without_a_known_divisor_goes_by_the_window(network):
    calls = []
    network.register_forward_hook(lambda m, i, o: calls.append(tuple(i[0].shape)))
    SlidingWindow((24, 64, 10), 0.5, tiling="one_pass")(network, images(41, 33, 11))
    assert calls == [(1, 2, 48, 64, 12)]  # multiples of 8, 32 and 2


def test_one_pass_never_exceeds_its_largest_edge(network):
    """A long box is covered by several windows at the same relative stride, one at a time."""
    volume, calls = images(41, 8, 8), []
    network.register_forward_hook(lambda m, i, o: calls.append(tuple(o.shape)))
    result = SlidingWindow(8, 0.5, tiling="one_pass", largest=20)(network, volume)
    # 41 becomes 48, cut to 16 (a multiple of 8, at most 20), stride 8: 0, 8, 16, 24, 25
    assert calls == [(1, 1, 16, 8, 8)] * 5
    expected, _ = slow(network, volume, (16, 8, 8), (8, 8, 8), torch.ones(16, 8, 8))
    torch.testing.assert_close(result[0], expected, rtol=1e-5, atol=1e-5)


def test_probability_level_averages_probabilities(network):
    volume = images(12, 8, 8)
    with torch.no_grad():
        first, second = (network(volume[None, :, s : s + 8])[0].sigmoid() for s in (0, 4))
    result = SlidingWindow(8, 0.5, level="probability")(network, volume)
    torch.testing.assert_close(result[:, :4], first[:, :4])
    torch.testing.assert_close(result[:, 4:8], (first[:, 4:] + second[:, :4]) / 2)


def test_several_channels_and_deep_logits():
    class Deep(nn.Module):
        def forward(self, x):
            from msseg_lightning.core.network import DeepLogits

            return DeepLogits(torch.cat([x, x * 2], 1), (x,))

    one = SlidingWindow(4, 0, batch_size=1, tiling="volume")
    volume = images(4, 4, 4)
    assert tuple(one(Deep(), volume).shape) == (4, 4, 4, 4)


def test_mode_of_the_network_is_left_as_found(network):
    SlidingWindow(8, 0.5)(network.train(), images(8, 8, 8))
    assert network.training
    SlidingWindow(8, 0.5)(network.eval(), images(8, 8, 8))
    assert not network.training


def test_weights_are_left_as_found(network):
    """Their layout too: training must not round differently after a validation."""
    weight, stride = network.conv.weight.data_ptr(), network.conv.weight.stride()
    SlidingWindow(8, 0.5)(network, images(8, 8, 8))
    assert (network.conv.weight.data_ptr(), network.conv.weight.stride()) == (weight, stride)
    network(images(8, 8, 8)[None]).sum().backward()
    network.conv.weight.grad.zero_()

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(2, 1, 3)

        def forward(self, given):
            raise RuntimeError("stop")

    broken = Broken()
    stride = broken.conv.weight.stride()
    with pytest.raises(RuntimeError, match="stop"):
        SlidingWindow(8, 0.5)(broken, images(8, 8, 8))
    assert broken.conv.weight.stride() == stride and broken.training


def test_progress_counts_windows(network):
    told = []
    window = SlidingWindow(8, 0.5, batch_size=2)
    window(network, images(16, 8, 8), progress=lambda *a: told.append(a))
    assert told == [(2, 3), (3, 3)]


def test_bf16_is_close_and_summed_in_float32(network):
    volume = images(20, 16, 16)
    exact, half = (SlidingWindow(8, 0.5, precision=p)(network, volume) for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.02)
    assert not torch.equal(half, exact)


def test_starts_by_hand():
    assert starts(10, 4, 2) == [0, 2, 4, 6]
    assert starts(11, 4, 2) == [0, 2, 4, 6, 7]  # the last one is pushed back
    assert starts(4, 4, 2) == [0]
    assert starts(9, 4, 4) == [0, 4, 5]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"size": 8, "overlap": 1.0}, "overlap"),
        ({"size": 8, "overlap": 1.5}, "overlap"),
        ({"size": 8, "overlap": -0.1}, "overlap"),
        ({"size": 8, "overlap": float("nan")}, "overlap"),
        ({"size": 8}, "overlap"),
        ({"size": 8, "overlap": 0.5, "stride": 4}, "overlap"),
        ({"size": 8, "stride": 9}, "stride"),
        ({"size": 8, "stride": 0}, "stride"),
        ({"size": 0, "overlap": 0.5}, "size"),
        ({"size": 8, "overlap": 0.5, "batch_size": 0}, "batch_size"),
        ({"size": 8, "overlap": 0.5, "weighting": "cosine"}, "weighting"),
        ({"size": 8, "overlap": 0.5, "level": "mask"}, "level"),
        ({"size": 8, "overlap": 0.5, "precision": "int8"}, "precision"),
        ({"size": 8, "overlap": 0.5, "tiling": "brain"}, "tiling"),
        ({"size": 8, "overlap": 0.5, "largest": 7}, "largest"),
    ],
)
def test_impossible_settings_end_with_status_2(settings, field):
    with pytest.raises(MssegError) as caught:
        SlidingWindow(**settings)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert caught.value.problems[0].field == field


def test_masks_that_do_not_fit_end_with_status_3(network):
    for inside in (torch.zeros(8, 8, 8, dtype=torch.bool), torch.ones(8, 8, 9, dtype=torch.bool)):
        with pytest.raises(MssegError) as caught:
            SlidingWindow(8, 0.5)(network, images(8, 8, 8), inside)
        assert caught.value.exit_code == ExitCode.DATA


def test_nan_ends_with_status_7(network):
    volume = images(12, 8, 8)
    volume[0, 2, 2, 2] = float("nan")
    with pytest.raises(MssegError, match="NaN") as caught:
        SlidingWindow(8, 0.5)(network, volume)
    assert caught.value.exit_code == ExitCode.NUMERICAL


def test_bf16_spares_the_level_that_compares_the_visits(monkeypatch):
    torch.manual_seed(0)
    unet = UNet(2, [4, 8], Block(norm=Norm("instance")), Down(), Up(), stem=True).eval()
    first, last = unet.encoder[0][0].conv, unet.decoder[-1][0].conv
    seen = {}
    for name, layer in (("first", first), ("last", last)):
        layer.register_forward_hook(
            lambda _, given, answer, name=name: seen.update({name: (given[0].dtype, answer.dtype)})
        )
    baseline = torch.rand(1, 16, 16, 16) + 1
    images = torch.cat([baseline, baseline + 0.01 * torch.rand(1, 16, 16, 16)])

    def answer(**settings):
        return SlidingWindow(16, 0.5, **settings)(unet, images)

    exact = answer()
    spared = (answer(precision="bf16") - exact).norm()
    assert seen["first"] == (torch.float32, torch.float32)
    assert seen["last"][1] == torch.bfloat16
    answer(precision="bf16", tiling="one_pass")
    assert seen["first"][1] == torch.bfloat16  # judged by the truth, not by equal masks
    assert not any("forward" in part.__dict__ for part in unet.finest_level)
    monkeypatch.setattr(sliding_window, "finest_levels", lambda _: [])
    assert spared < 0.8 * (answer(precision="bf16") - exact).norm()


def test_a_network_may_answer_with_probabilities():
    class Share(nn.Module):
        def forward(self, images):
            return images[:, :1]

    images = torch.rand(1, 6, 6, 6)
    window = SlidingWindow(4, overlap=0.5, level="probability", activation="none")
    torch.testing.assert_close(window(Share(), images), images)
    with pytest.raises(MssegError) as caught:
        SlidingWindow(4, overlap=0.5, level="logit", activation="none")
    assert caught.value.exit_code == ExitCode.CONFIG


def test_a_map_may_be_divided_by_the_largest_value_of_the_volume():
    """The same answer in each of two windows, 1 and 4: of each patch 1, of the volume 1/4 and 1."""

    class Relu(nn.Module):
        normalise = True

        def forward(self, images):
            answer = images[:, :1].relu()
            return answer / answer.amax((1, 2, 3, 4), keepdim=True) if self.normalise else answer

    images = torch.ones(1, 8, 4, 4)
    images[:, 4:] = 4
    network = Relu()
    settings = {"size": 4, "overlap": 0.0, "level": "probability"}
    assert (SlidingWindow(activation="none", **settings)(network, images) == 1).all()
    answer = SlidingWindow(activation="volume_maximum", **settings)(network, images)
    assert (answer[:, :4] == 0.25).all() and (answer[:, 4:] == 1).all() and network.normalise
    nothing = SlidingWindow(activation="volume_maximum", **settings)(network, -images)
    assert not nothing.any()
