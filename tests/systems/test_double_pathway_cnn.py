"""What the card of S11 says of the whole system."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from msseg_lightning.run.assemble.system import build_sampler, instantiate
from msseg_lightning.run.config.compose import compose_config


@functools.cache
def config():
    return compose_config(("read.root=.",), "double_pathway_cnn")


def test_one_patch_for_sampling_network_and_prediction():
    found = config()
    sampler, infer = build_sampler(found), instantiate(found["infer"])
    with torch.device("meta"):
        network = instantiate(found["network"])
    assert sampler.size == (97, 97, 97) == (infer.size,) * 3 == (network.network.size,) * 3
    assert sampler.output == infer.output == network.network.output == 19
    assert network.network.in_channels == len(found["channels"]["images"]) == 2
    # 288 centres of a training image, 2304 of a new one
    assert (sampler.counts, infer.counts) == ((6, 8, 6), (12, 16, 12))
    assert sampler.reinforced_counts == infer.counts and sampler.reinforced == 0.5
    assert sum(weight.numel() for weight in network.parameters()) == 1_652_802


def test_steps_in_the_order_of_the_card():
    steps = config()["preprocess"]["steps"]
    kinds = [step["_target_"].rpartition(".")[2] for step in steps.values()]
    assert [kind for kind in kinds if kind != "HalfwayRegistration"] == [
        "Reorient",
        "AffineToAtlas",
        "MinMax",
        "CropToMask",
    ]


def test_training_as_deepmedic():
    found = config()["train"]
    optimizer = instantiate(found["optimizer"], partial=True)([nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.RMSprop)
    wanted = {"lr": 1e-3, "momentum": 0.6, "weight_decay": 1e-4, "alpha": 0.9}
    assert {name: optimizer.defaults[name] for name in wanted} == wanted
    scheduler = instantiate(found["scheduler"], partial=True)(optimizer)
    for _ in range(5):  # the first is the best; 4 without progress are one more than it waits
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    # an epoch: 288 patches of each of 32 patients in batches of 10
    assert found["validate_every"] == round(288 * 32 / 10)
    assert found["steps"] == 35 * found["validate_every"]
    assert found["task"]["cut"]["_target_"].endswith(
        "MiddleLoader"
    )  # given the sampler of training


def test_nothing_is_augmented():
    recipe = instantiate(config()["augment"]).recipe
    assert recipe == type(recipe)()
