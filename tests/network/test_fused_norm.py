import pytest
import torch
from torch import nn
from torch.nn import functional

from msseg_lightning.network.blocks import Activation, Block, Down, InstanceNorm, Norm, Unit, Up
from msseg_lightning.network.fused_norm import NormActivation, norm_activation
from msseg_lightning.network.unet import UNet

ACTIVATIONS = {"leaky_relu": nn.LeakyReLU(0.1), "relu": nn.ReLU(), "none": None}


def norms(channels=8):
    made = {"instance": InstanceNorm(channels), "group": nn.GroupNorm(2, channels)}
    for norm in made.values():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return made


@pytest.mark.parametrize("kind", ["instance", "group"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_equals_torch_forward_and_backward(kind, activation, layout):
    torch.manual_seed(0)
    norm, act = norms()[kind], ACTIVATIONS[activation]
    # a mean far from zero is where a careless variance loses its digits
    features = (torch.randn(2, 8, 5, 6, 7) * 3 + 20).contiguous(memory_format=layout)
    upstream = torch.randn(2, 8, 5, 6, 7)
    found, expected = [], []
    for results, function in (
        (found, lambda x: norm_activation(norm, act, x)),
        (expected, lambda x: norm(x) if act is None else act(norm(x))),
    ):
        x = features.clone().requires_grad_()
        norm.zero_grad()
        answer = function(x)
        answer.backward(upstream)
        results += [answer, x.grad, norm.weight.grad.clone(), norm.bias.grad.clone()]
    for ours, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=5e-4, atol=5e-5)


def test_gradient_by_finite_differences():
    torch.manual_seed(0)
    double = {"dtype": torch.float64, "requires_grad": True}

    class InDouble(NormActivation):
        """The same formulas; ``float()`` inside keeps single precision, hence the tolerance."""

    x, w, b = (
        torch.randn(1, 4, 2, 3, 2, **double),
        torch.randn(4, **double),
        torch.randn(4, **double),
    )
    assert torch.autograd.gradcheck(
        lambda *a: InDouble.apply(*a, 2, 1e-2, 0.3), (x, w, b), eps=1e-2, atol=2e-2, rtol=2e-2
    )


def test_values_by_hand():
    # 0, 2 | 4, 6 in one group of two channels: mean 3, variance 5; slope 0.5 below zero
    x = torch.tensor([[[0.0, 2.0], [4.0, 6.0]]]).view(1, 2, 2, 1, 1)
    norm = nn.GroupNorm(1, 2, eps=0)
    answer = norm_activation(norm, nn.LeakyReLU(0.5), x).flatten()
    torch.testing.assert_close(answer, torch.tensor([-1.5, -0.5, 1.0, 3.0]) / 5**0.5)


def test_one_voxel_gives_the_bias():
    norm = norms()["instance"]
    answer = norm_activation(norm, None, torch.randn(2, 8, 1, 1, 1))
    torch.testing.assert_close(answer[0].flatten(), norm.bias)


def test_other_modules_run_as_they_are():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3, 3)
    batch = nn.BatchNorm3d(4, track_running_stats=False)
    torch.testing.assert_close(norm_activation(batch, nn.ReLU(), x), batch(x).relu())
    torch.testing.assert_close(norm_activation(nn.Identity(), nn.GELU(), x), functional.gelu(x))


@pytest.mark.parametrize("order", ["conv_norm_act", "norm_act_conv", "norm_conv_act"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", ["instance", "group"])
def test_compiled_unet_takes_the_same_step(order, residual, kind, monkeypatch):
    """The path of the compiler, walked without one: the same loss and the same gradients."""
    norm = Norm("group", groups=2) if kind == "group" else Norm("instance")
    block = Block(order, residual, norm=norm, activation=Activation("leaky_relu", 0.05))
    torch.manual_seed(0)
    network = UNet(2, [4, 8], block, Down(), Up(), stem=True)
    images = torch.randn(2, 2, 8, 8, 8)
    calls = []
    forward = NormActivation.forward
    monkeypatch.setattr(
        NormActivation, "forward", staticmethod(lambda *a: (calls.append(1), forward(*a))[1])
    )
    results = []
    for compiled in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiled=compiled: compiled)
        network.zero_grad()
        loss = network(images).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in network.parameters())])
    units = sum(isinstance(module, Unit) for module in network.modules())
    assert len(calls) == units  # all norms of the second walk and none of the first
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-6, atol=1e-6)
    for ours, torchs in zip(results[1][1:], results[0][1:], strict=True):
        torch.testing.assert_close(ours, torchs, rtol=5e-4, atol=1e-5)


@pytest.mark.slow
def test_the_compiler_agrees():
    torch.manual_seed(0)
    network = UNet(2, [4, 8], Block(norm=Norm("instance")), Down(), Up())
    images = torch.randn(2, 2, 8, 8, 8)
    eager = network(images)
    torch.testing.assert_close(torch.compile(network, dynamic=False)(images), eager)
