"""What is taken from nnU-Net's public description, as numbers of the experiment."""

from __future__ import annotations

import pytest
import torch

from msseg_lightning.core.network import DeepLogits
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config


def config(*words):
    return compose_config(("read.root=.", *words), "nnunet_pair_baseline")


def test_the_rate_falls_as_a_polynomial():
    found = config("train.steps=1000")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = instantiate(found["train"]["optimizer"], partial=True)([weight])
    assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.99
    scheduler = instantiate(found["train"]["scheduler"], partial=True)(optimizer)
    rates = []
    for _ in range(1000):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 0.01
    for step in (250, 500, 999):  # 0.01 * (1 - step / steps) ** 0.9
        assert rates[step] == pytest.approx(0.01 * (1 - step / 1000) ** 0.9, rel=1e-6)


def test_a_third_of_the_patches_are_centred_on_lesions():
    found = config()
    assert found["sample"]["positive_ratio"] == 0.33
    assert found["sample"]["size"] == [128, 128, 128]
    assert found["infer"]["window"]["weighting"] == "gaussian"
    assert instantiate(found["infer"]).level == "logit"


def test_the_loss_is_dice_and_cross_entropy_at_the_networks_resolutions():
    found = config("network.widths=[4,4,4,4,4,4]")
    network, loss = instantiate(found["network"]), instantiate(found["loss"])
    images = torch.randn(2, 2, 64, 32, 32)
    output = network(images)
    assert isinstance(output, DeepLogits)
    assert [o.shape[2] for o in (output.logits, *output.deeper)] == [64, 32, 16, 8]
    target = torch.zeros(2, 1, 64, 32, 32)
    target[:, :, 20:30, 10:20, 10:20] = 1
    value = loss(output, target)
    parts = []
    for level, logits in enumerate((output.logits, *output.deeper)):
        g = target[:, :, :: 2**level, :: 2**level, :: 2**level]
        p = logits.sigmoid()
        axes = (2, 3, 4)
        dice = (2 * (p * g).sum(axes) + 1e-5) / (p.sum(axes) + g.sum(axes) + 1e-5)
        entropy = torch.nn.functional.binary_cross_entropy(p, g)
        parts.append(entropy + (1 - dice).mean())
    expected = sum(w * part for w, part in zip((8, 4, 2, 1), parts, strict=True)) / 15
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_an_eighth_of_the_images_is_seen_at_low_resolution():
    """A quarter of the patches and half of their images, at one half to all of their voxels."""
    augment = instantiate(config()["augment"])
    low = augment.transform
    assert augment.per_image and tuple(low.keys) == ("images",)
    low.set_random_state(0)
    images = torch.rand(1, 8, 8, 8)
    changed = [not torch.equal(low({"images": images})["images"], images) for _ in range(2000)]
    assert abs(sum(changed) / 2000 - 0.125) < 0.025
    assert list(low.sim_lowres_tfm.zoom_range) == [0.5, 1.0]
    assert low.sim_lowres_tfm.downsample_mode == "nearest-exact"
    assert augment.first.recipe.gamma.probability == 0.3
