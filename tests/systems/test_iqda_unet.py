"""S10: the network, the loss and the optimiser that the card describes."""

import pytest
import torch
from torch import nn

from msseg_lightning.run.assemble.system import build_sampler, instantiate
from msseg_lightning.run.config.compose import compose_config


@pytest.fixture(scope="module")
def config():
    return compose_config(["read.root=."], "iqda_unet")


@pytest.fixture(scope="module")
def network(config):
    return instantiate({**config["network"], "widths": [8, 16, 24, 32]})


def test_parameters(config):
    with torch.device("meta"):
        network = instantiate(config["network"])
    assert sum(weight.numel() for weight in network.parameters()) == 5_840_101


def test_blocks_are_norm_convolution_relu(network):
    seen = []
    hooks = [
        module.register_forward_hook(lambda module, *_: seen.append(module))
        for module in network.modules()
        if not list(module.children())
    ]
    network.eval()(torch.zeros(1, 2, 16, 16, 16))
    for hook in hooks:
        hook.remove()
    triples = [(a, b, c) for a, b, c in zip(seen, seen[1:], seen[2:], strict=False)]
    blocks = [t for t in triples if isinstance(t[1], nn.Conv3d) and t[1].kernel_size == (3, 3, 3)]
    assert len(blocks) == 14  # 2 on each of 4 levels down and 3 up
    for norm, _, activation in blocks:
        assert isinstance(norm, nn.GroupNorm) and isinstance(activation, nn.ReLU)
    assert [norm.num_groups for norm, *_ in blocks] == [1] + [8] * 13


def test_dropout_zeroes_half_after_each_pooling(network):
    torch.manual_seed(0)
    seen = {}
    for level, down in enumerate(network.downs):
        if level:
            pool, dropout = down
            assert isinstance(pool, nn.MaxPool3d)
            pool.register_forward_hook(lambda m, i, o, level=level: seen.update({level: o}))
            dropout.register_forward_hook(
                lambda m, i, o, level=level: seen.update({level: (seen[level], o)})
            )
    images = torch.randn(2, 2, 32, 32, 32)
    network.train()(images)
    assert sorted(seen) == [1, 2, 3]
    for before, after in seen.values():
        alive = before != 0
        zeroed = (after[alive] == 0).float().mean()
        assert 0.45 < float(zeroed) < 0.55
        kept = alive & (after != 0)
        torch.testing.assert_close(after[kept], 2 * before[kept])
    network.eval()(images)
    for before, after in seen.values():
        torch.testing.assert_close(after, before)


def test_the_recipe_of_training(config):
    optimizer = instantiate(config["train"]["optimizer"], partial=True)(
        [nn.Parameter(torch.zeros(1))]
    )
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 1e-4 and optimizer.defaults["betas"][0] == 0.9
    assert config["train"]["scheduler"] is None
    assert config["sample"]["size"] == [64, 64, 64] and config["infer"]["size"] == 64
    assert config["channels"]["images"] == ["baseline_flair", "followup_flair"]


@pytest.mark.parametrize("size", [(), ("size=cpu",), ("size=tiny",)])
@pytest.mark.parametrize("name", ["iqda_unet", "metric_learning_unet"])
def test_half_of_the_patches_hold_a_lesion_anywhere(name, size):
    """Always in the middle, this small network finds lesions there and not where windows meet."""
    sampler = build_sampler(compose_config(["read.root=.", *size], name))
    assert sampler.positive_ratio == 0.5
    half = sampler.size[0] // 2
    assert half / 2 <= sampler.jitter_voxels < half
