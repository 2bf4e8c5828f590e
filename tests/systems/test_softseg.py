"""What the card of S17 says of its three systems."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_cache, build_loader, build_method, instantiate
from msseg_lightning.run.config.compose import compose_config

NAMES = ("softseg_modified_unet", "softseg_attention_mc_dropout", "softseg_unet_ensemble")


@functools.cache
def config(name="softseg_modified_unet", *words):
    return compose_config(("read.root=.", *words), name)


@pytest.fixture(scope="module")
def prepared(tiny_cohort, tmp_path_factory):
    """The pair with new lesions, prepared as at its tiny size."""
    found = config("softseg_modified_unet", "size=tiny")
    steps = [instantiate(step) for step in found["preprocess"]["steps"].values() if step]
    load = build_cache(found).load
    cache = PreparedCache(tmp_path_factory.mktemp("cache"), Preprocess(steps), load, workers=1)
    subjects = [pair for pair in Msseg2(tiny_cohort).subjects() if pair.id == "003"]
    return cache.prepare(subjects)[0]


def test_targets_stay_between_0_and_1(prepared):
    """The native voxels are of 3 mm, so every border is mixed on a grid of 2.9 mm."""
    target = prepared.label(TARGET)
    between = (target > 0.01) & (target < 0.99)
    assert prepared.layer(TARGET).kind == "soft" and between.any() and target.max() > 0.5
    assert not target[~prepared.mask(BRAIN)].any()
    for name in (BASELINE, FOLLOWUP):
        assert abs(prepared.image(name)[~prepared.mask(BRAIN)]).max() < 1e-2


def test_patches_of_training_have_soft_targets(prepared):
    found = config("softseg_modified_unet", "size=tiny")
    loader = build_loader({**found, "train": {"batch_size": 4}})([prepared])
    assert loader.repeats >= 1
    targets = [loader.batch(step).target for step in range(4)]
    values = torch.cat([target.flatten() for target in targets])
    assert ((values > 0.01) & (values < 0.99)).any() and values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_answer_of_a_patch_has_a_largest_value_of_1(name):
    found = config(name, "size=tiny")
    torch.manual_seed(0)
    network = instantiate(found["network"]).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 32, 32, 32)).amax().item() == 1.0
    assert instantiate(found["loss"]).activation == "none"


def test_the_attention_system_is_the_plain_one_with_gates_and_passes():
    plain, gated = config(), config(NAMES[1])
    assert gated["network"] == {**plain["network"], "attention": True}
    assert gated["infer"]["window"] == plain["infer"]
    same = ("preprocess", "sample", "augment", "loss", "train", "postprocess", "channels")
    assert all(gated[key] == plain[key] for key in same)


def test_passes_differ_and_norms_do_not():
    """Of S17c's own network and rule, at its tiny size."""
    found = config(NAMES[1], "size=tiny")
    torch.manual_seed(0)
    network, rule = instantiate(found["network"]), instantiate(found["infer"])
    images = torch.randn(2, 32, 32, 32)
    answers = []
    handle = network.register_forward_hook(lambda _, __, answer: answers.append(answer.clone()))
    mean, spread = rule.with_spread(network, images)
    handle.remove()
    assert len(answers) == rule.passes == 3
    torch.testing.assert_close(mean, torch.cat(answers).mean(0))
    assert spread.max() > 0.1
    with torch.no_grad():
        plain = network.eval()(images[None])[0]
    assert not torch.allclose(mean, plain)


def test_four_members_of_which_one_has_gates():
    method = build_method(config(NAMES[2]))
    gated = {name: make().task.network.gating is not None for name, make in method.members.items()}
    assert [gated[name.rpartition("-")[0]] for name in method.names] == [False] * 3 + [True]
    assert len(method.names) == 4 and method.folds == 4
    assert method.level == "probability" and method.rule == "mean"


def test_affine_and_elastic_exclude_each_other():
    from msseg_lightning.augment.parameters import draw
    from msseg_lightning.core.random import keyed_generator
    from msseg_lightning.core.volume import Grid

    recipe = instantiate(config()["augment"]).first.recipe
    grid = Grid((64, 64, 64), np.diag([0.5, 0.5, 0.5, 1.0]))
    elastic = []
    for key in range(200):
        drawn = draw(recipe, grid, (64, 64, 64), ["baseline"], keyed_generator(key))
        turned = not np.allclose(np.abs(drawn.matrix), np.eye(3))
        assert turned != (drawn.nodes is not None)
        elastic.append(drawn.nodes is not None)
    assert 0.3 < np.mean(elastic) < 0.5
