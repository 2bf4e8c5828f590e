"""Choice and results of the CPU kernels of predictions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from msseg_lightning.infer.cpu_kernels import CpuKernels
from msseg_lightning.network.blocks import InstanceNorm


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def kernels(network, given):
    """Names of what torch calls, and the answer."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        answer = network(given)
    return {event.key for event in profiler.key_averages()}, answer


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2, "bias": False},
        {"padding": 1, "groups": 2},
    ],
)
def test_a_single_window_takes_the_fast_convolution(settings):
    torch.manual_seed(0)
    network, given = nn.Conv3d(4, 6, 3, **settings), images(1, 4, 12, 9, 10)
    with torch.inference_mode():
        expected = network(given)
    with CpuKernels():
        called, answer = kernels(network, given)
    assert "aten::mkldnn_convolution" in called
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-6)


def test_settings_by_name_and_as_one_number():
    weight, given = images(3, 2, 3, 3, 3), images(1, 2, 8, 9, 10)
    with CpuKernels(), torch.inference_mode():
        answer = functional.conv3d(given, weight, stride=2, padding=1)
    torch.testing.assert_close(
        answer, functional.conv3d(given, weight, stride=2, padding=1), rtol=1e-5, atol=1e-5
    )


def test_torch_alone_would_fall_back():
    """The trap this is for; once torch has mended it, ``CpuKernels`` loses half of its task."""
    called, _ = kernels(nn.Conv3d(4, 6, 3, padding=1), images(1, 4, 12, 9, 10))
    assert "aten::mkldnn_convolution" not in called


def test_other_convolutions_stay_torchs():
    with CpuKernels(), torch.inference_mode():
        same = nn.Conv3d(2, 3, 3, padding="same")(images(1, 2, 8, 8, 8))
        plane = nn.Conv2d(2, 3, 3)(images(1, 2, 8, 8))
        with torch.autocast("cpu", torch.bfloat16):
            half = nn.Conv3d(2, 3, 3)(images(1, 2, 8, 8, 8))
    assert (same.shape, plane.shape, half.dtype) == ((1, 3, 8, 8, 8), (1, 3, 6, 6), torch.bfloat16)


def test_group_norm_is_exact_however_features_lie():
    network, given = nn.GroupNorm(2, 4), images(1, 4, 48, 48, 48) + 3
    expected = functional.group_norm(given.double(), 2).float()
    given = given.contiguous(memory_format=torch.channels_last_3d)
    with CpuKernels(), torch.inference_mode():
        torch.testing.assert_close(network(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [nn.InstanceNorm3d(4, affine=True), InstanceNorm(4)])
def test_instance_norm_in_bf16_keeps_the_layout_and_the_values(network):
    given = (images(1, 4, 32, 24, 40) * 2 + 3).bfloat16()
    mean, spread = given.double().mean((2, 3, 4)), given.double().std((2, 3, 4), correction=0)
    expected = (given.double() - mean.view(1, 4, 1, 1, 1)) / spread.view(1, 4, 1, 1, 1)
    lying = given.contiguous(memory_format=torch.channels_last_3d)
    with CpuKernels():
        called, answer = kernels(network, lying)
    assert "aten::clone" not in called and answer.stride() == lying.stride()
    torch.testing.assert_close(answer.double(), expected, rtol=0.01, atol=0.01)
    with CpuKernels(), torch.inference_mode():  # several windows, or float32, stay as they were
        torch.testing.assert_close(network(given.float()).double(), expected, rtol=1e-4, atol=1e-4)
        two = network(torch.cat([given, given * 2 + 1]))
        torch.testing.assert_close(two[:1].double(), expected, rtol=0.02, atol=0.02)
