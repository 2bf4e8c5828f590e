"""What the card of S15 says of the whole system."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import LongitudinalSubject, Native
from msseg_lightning.core.volume import Grid
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.run.assemble.system import build_loader, instantiate, postprocess_rules
from msseg_lightning.run.config.compose import compose_config

MEMBERS = ("tiramisu_2_5d_augmented", "tiramisu_2_5d_plain")


@functools.cache
def config(name="tiramisu_2_5d_augmented"):
    return compose_config(("read.root=.",), name)


def test_the_network_of_the_card():
    network = instantiate(config()["network"])
    assert sum(weight.numel() for weight in network.parameters()) == 1_376_161
    assert (network.first.in_channels, network.first.out_channels) == (6, 48)
    images = torch.rand(2, 6, 32, 32) * 3
    network.eval()
    with torch.no_grad():
        output = network.before_tanh(images).tanh()
        torch.testing.assert_close((output + 1) / 2, network(images).sigmoid())
    assert output.abs().max() < 1
    loss = instantiate(config()["loss"])
    target = torch.tensor([0.0, 1.0])
    # tanh 0 is 1 away from both -1 and +1; weighted with 2000
    assert loss(torch.zeros(2), target) == pytest.approx(2000)
    assert loss(torch.tensor([-50.0, 50.0]), target) == pytest.approx(0)


@pytest.mark.parametrize("name", MEMBERS)
def test_stacks_in_training_and_prediction(name):
    found = config(name)
    loader = build_loader(found)
    infer, sampler = instantiate(found["infer"]), loader.keywords["sampler"]
    assert loader.func.keywords["depth"] == infer.depth == 3
    assert found["network"]["in_channels"] == 2 * 3
    assert set(sampler.axes) == set(infer.axes) == {0, 1, 2}
    assert (sampler.size, sampler.positive_ratio, sampler.lesion_pixel) == ((128, 128), 1.0, 0.95)
    assert (sampler.lesion_voxels, sampler.anywhere) == (1, True)


def test_rates_at_epochs():
    """400 epochs: 2e-4 to the 100th, half of it at the 250th, 0 at the 400th."""
    train = config()["train"]
    optimizer = instantiate(train["optimizer"], partial=True)([nn.Parameter(torch.zeros(1))])
    scheduler = instantiate(train["scheduler"], partial=True)(optimizer)
    (factor,) = scheduler.lr_lambdas
    epoch = train["steps"] / 400
    assert train["validate_every"] == 10 * epoch
    rates = [2e-4 * factor(number * epoch) for number in (0, 100, 250, 400)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 0])
    assert optimizer.defaults["betas"] == (0.5, 0.999) and optimizer.defaults["lr"] == 2e-4
    assert train["batch_size"] == 16


def test_the_augmentation_of_the_card():
    recipe = instantiate(config()["augment"]).recipe
    fifths = ("blur", "sharpen", "noise", "equalise", "brightness_contrast", "radial", "linear")
    assert {getattr(recipe, name).probability for name in fifths} == {0.2}
    assert recipe.coarse.probability == 0.1
    assert (recipe.aspect.new_probability, recipe.aspect.probability) == (0.2, 0.8)
    thirds = [recipe.rotate.probability, recipe.distort.probability, recipe.scale.probability]
    assert [*thirds, recipe.flip, recipe.transpose] == [0.3] * 5
    assert recipe.rotate.degrees == [1, 45] and recipe.aspect.ratio == [0.5, 2.0]
    assert (recipe.distort.steps, recipe.distort.limit) == (5, 0.3)
    assert recipe.scale.smallest == pytest.approx(1 / 1.5, abs=1e-4)
    assert set(recipe.blur.edges) == {3, 5, 7} and recipe.equalise.clip == [1, 4]


def test_members_differ_in_augmentation_alone():
    augmented, plain = (dict(config(name)) for name in MEMBERS)
    for found in (augmented, plain):
        for key in ("name", "experiment", "card"):
            found.pop(key)
    changed = {key for key in augmented if augmented[key] != plain[key]}
    assert changed == {"augment"}
    assert instantiate(plain["augment"]).recipe == type(instantiate(augmented["augment"]).recipe)()


def test_the_final_map_is_the_mean_over_planes_and_members():
    """Ten members of three planes each: 30 maps, each of the same weight."""
    ensemble = config("tiramisu_2_5d")["ensemble"]
    assert tuple(ensemble["members"]) == MEMBERS and ensemble["folds"] == 5
    images, native = torch.rand(2, 5, 6, 7), Native(Grid((5, 6, 7), np.eye(4)), b"")

    def network(place):
        torch.manual_seed(sum(map(ord, place)))
        return nn.Conv2d(6, 1, 3, padding=1)

    class Member:
        def load(self, folder):
            place = folder.name if folder.name != "model" else folder.parent.name
            self.network = network(place)

        def predict(self, subject):
            values = instantiate(config()["infer"])(self.network, images)[0].numpy()
            return Prediction(subject.id, (values > 0.5).astype(np.uint8), native, values)

    method = EnsembleMethod(
        dict.fromkeys(MEMBERS, Member),
        folds=5,
        has_lesions=lambda subject: True,
        level=ensemble["level"],
        rule=ensemble["rule"],
        postprocess=postprocess_rules(config("tiramisu_2_5d")),
    )
    method.models = Path("members")
    answer = method.predict(LongitudinalSubject("p", "p", {}))
    maps = [
        SliceWise([plane], depth=3)(network(f"{name}-fold{fold}"), images)[0]
        for fold in range(5)
        for name in MEMBERS
        for plane in ("sagittal", "coronal", "axial")
    ]
    assert len(maps) == 30
    np.testing.assert_allclose(answer.probability, torch.stack(maps).mean(0), atol=1e-5)


def test_single_voxels_are_removed():
    """Neighbours by faces and edges: two voxels that share a corner only are two lesions."""
    values = np.zeros((6, 6, 6), np.float32)
    values[0, 0, 0] = values[0, 1, 1] = 0.6  # share an edge
    values[3, 3, 3] = values[4, 4, 4] = 0.9  # share a corner
    values[5, 0, 0] = values[5, 0, 1] = 0.5  # not above one half
    native = Native(Grid((6, 6, 6), np.eye(4)), b"")
    prediction = Prediction("p", np.zeros((6, 6, 6), np.uint8), native, values)
    for rule in postprocess_rules(config("tiramisu_2_5d")):
        prediction = rule(prediction)
    assert np.argwhere(prediction.mask).tolist() == [[0, 0, 0], [0, 1, 1]]


def test_preprocessing_is_the_organisers_with_the_main_tissue_at_one():
    steps = config()["preprocess"]["steps"]
    kinds = [step["_target_"].rpartition(".")[2] for step in steps.values()]
    assert kinds[-2:] == ["CropToNonzero", "HistogramMode"] and "N4" in kinds
