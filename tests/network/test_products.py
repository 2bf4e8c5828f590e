import pytest
import torch
from torch import nn

from msseg_lightning.network import products
from msseg_lightning.network.blocks import Block, Down, Norm, Up
from msseg_lightning.network.products import apply_head, upsample
from msseg_lightning.network.unet import UNet

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture
def compiling(monkeypatch):
    """The path of the compiler, walked without one."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def step(function, layer, features, upstream):
    """Answer and gradients of one call."""
    x = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    answer = function(x)
    answer.backward(upstream)
    return [answer, x.grad, *(weight.grad.clone() for weight in layer.parameters())]


def torch_must_not_run(layer, monkeypatch):
    def refuse(_):
        raise AssertionError("torch's own kernel ran")

    monkeypatch.setattr(layer, "forward", refuse)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "make, kernel, sizes",
    [
        (nn.ConvTranspose3d, (2, 2, 2), (3, 4, 5)),
        (nn.ConvTranspose3d, (1, 2, 3), (3, 4, 5)),  # axes of different steps must not swap
        (nn.ConvTranspose2d, (2, 2), (3, 4)),
        (nn.ConvTranspose2d, (3, 1), (3, 4)),
    ],
)
def test_blocks_apart_are_a_matrix_product(make, kernel, sizes, bias, compiling, monkeypatch):
    torch.manual_seed(0)
    layer = make(6, 5, kernel, stride=kernel, bias=bias)
    features = torch.randn(2, 6, *sizes).contiguous(memory_format=LAST[len(sizes) + 2])
    larger = [size * edge for size, edge in zip(sizes, kernel, strict=True)]
    upstream = torch.randn(2, 5, *larger)
    expected = step(layer, layer, features, upstream)
    torch_must_not_run(layer, monkeypatch)
    found = step(lambda x: upsample(layer, x), layer, features, upstream)
    assert found[0].is_contiguous(memory_format=LAST[found[0].ndim])
    for ours, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


def test_an_enlarged_voxel_by_hand(compiling):
    layer = nn.ConvTranspose2d(2, 1, (1, 2), stride=(1, 2))
    with torch.no_grad():
        layer.weight[:] = torch.tensor([[[[1.0, 2.0]]], [[[10.0, 20.0]]]])
        layer.bias[:] = 0.5
    voxels = torch.tensor([[[[1.0, 3.0]], [[2.0, 4.0]]]]).contiguous(memory_format=LAST[4])
    # 1 * 1 + 10 * 2, 2 * 1 + 20 * 2 | 1 * 3 + 10 * 4, 2 * 3 + 20 * 4, and a half each
    expected = torch.tensor([[[[21.5, 42.5, 43.5, 86.5]]]])
    torch.testing.assert_close(upsample(layer, voxels), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose3d(4, 3, 3, stride=2, padding=1, output_padding=1),  # blocks overlap
        nn.ConvTranspose3d(4, 4, 2, stride=2, groups=2),
        nn.ConvTranspose3d(4, 3, 2, stride=2, output_padding=1),
        nn.ConvTranspose3d(4, 3, 2, stride=2, padding=1),  # the outermost voxels are cut off
        nn.ConvTranspose3d(4, 3, 2, stride=2, dilation=2),
        nn.Upsample(scale_factor=2),
    ],
)
def test_other_ways_up_run_as_they_are(layer, compiling, monkeypatch):
    torch.manual_seed(0)
    features = torch.randn(1, 4, 3, 3, 3).contiguous(memory_format=LAST[5])
    monkeypatch.setattr(products.Product, "apply", lambda *_: pytest.fail("not such a product"))
    torch.testing.assert_close(upsample(layer, features), layer(features), rtol=0, atol=0)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_head_is_a_weighted_sum(outputs, dims, compiling, monkeypatch):
    torch.manual_seed(0)
    layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(6, outputs, 1)
    features = torch.randn(2, 6, *(5, 4, 3)[:dims]).contiguous(memory_format=LAST[dims + 2])
    upstream = torch.randn(2, outputs, *(5, 4, 3)[:dims])
    expected = step(layer, layer, features, upstream)
    torch_must_not_run(layer, monkeypatch)
    found = step(lambda x: apply_head(layer, x), layer, features, upstream)
    for ours, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_head_of_bf16_features_gives_float32(weights, compiling):
    torch.manual_seed(0)
    layer = nn.Conv3d(64, 1, 1).to(weights)
    features = torch.randn(1, 64, 4, 4, 4).bfloat16().contiguous(memory_format=LAST[5])
    with torch.autocast("cpu", torch.bfloat16):
        logits = apply_head(layer, features)
    assert logits.dtype == torch.float32
    if weights == torch.float32:
        torch.testing.assert_close(logits, layer(features.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 1, 3, padding=1),
        nn.Conv3d(4, 5, 1),
        nn.Conv3d(4, 2, 1, groups=2),
        nn.Conv3d(4, 1, 1, stride=2),
        nn.Conv3d(4, 1, 1, padding=1),
    ],
)
def test_other_heads_run_as_they_are(layer, compiling):
    torch.manual_seed(0)
    features = torch.randn(1, 4, 4, 4, 4).contiguous(memory_format=LAST[5])
    torch.testing.assert_close(apply_head(layer, features), layer(features), rtol=0, atol=0)


@pytest.mark.parametrize("compiled, layout", [(False, LAST[5]), (True, torch.contiguous_format)])
def test_only_compiled_with_channels_last(compiled, layout, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    monkeypatch.setattr(products.Product, "apply", lambda *_: pytest.fail("not here"))
    layer = nn.ConvTranspose3d(4, 3, 2, stride=2)
    features = torch.randn(2, 4, 3, 3, 3).contiguous(memory_format=layout)
    assert upsample(layer, features).shape == (2, 3, 6, 6, 6)


@pytest.mark.slow
def test_the_compiler_agrees_with_channels_last():
    torch.manual_seed(0)
    network = UNet(2, [4, 8], Block(norm=Norm("instance")), Down(), Up(), heads=2)
    network.to(memory_format=LAST[5])
    images = torch.randn(2, 2, 8, 8, 8).contiguous(memory_format=LAST[5])
    results = []
    for run in (network, torch.compile(network, dynamic=False)):
        network.zero_grad()
        logits = run(images)
        (logits.full.square().mean() + logits.deeper[0].square().mean()).backward()
        results.append([logits.full, *(weight.grad.clone() for weight in network.parameters())])
    for ours, torchs in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=5e-4, atol=1e-5)
