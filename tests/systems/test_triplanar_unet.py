"""What the card of S14a says of the whole system."""

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
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.run.assemble.system import instantiate, postprocess_rules
from msseg_lightning.run.config.compose import compose_config


@functools.cache
def config(*words):
    return compose_config(("read.root=.", *words), "triplanar_unet")


def test_the_numbers_of_the_card():
    found = config()
    with torch.device("meta"):
        network = instantiate(found["network"])
    assert sum(weight.numel() for weight in network.parameters()) == 31_042_945
    box = found["preprocess"]["steps"]["atlas"]
    assert box["shape"] == [256, 256, 256] == [*found["sample"]["size"], 256]
    train, ensemble = found["train"], found["ensemble"]
    assert train["batch_size"] == 20
    assert (train["optimizer"]["lr"], train["optimizer"]["momentum"]) == (1e-4, 0.9)
    assert found["loss"]["terms"]["top_k"]["share"] == 0.1
    assert set(found["loss"]["weights"].values()) == {1}
    assert (ensemble["folds"], ensemble["level"], ensemble["rule"]) == (5, "binary", "mean")
    # an epoch is one pass over the slices of four fifths of 40 patients, 100 of them
    assert train["validate_every"] == pytest.approx(32 * 3 * 256 / 20, rel=0.01)
    assert train["steps"] == 100 * train["validate_every"]


def test_the_augmentation_of_the_card():
    recipe = instantiate(config()["augment"]).recipe
    assert recipe.affine.rotation_degrees == [15, 15, 15] and recipe.affine.probability == 0.3
    assert len(recipe.flip.axes) == 3 and recipe.flip.probability == 0.5
    assert recipe.elastic.probability == 0.2
    assert (recipe.gamma.gamma, recipe.gamma.probability) == ([0.7, 1.5], 0.3)
    assert (recipe.bias_field.coefficient, recipe.bias_field.probability) == ([-0.5, 0.5], 0.3)


def test_the_rate_follows_the_validation_loss():
    found = config()["train"]
    task = instantiate(found["task"], partial=True)(
        network=nn.Conv2d(2, 1, 1),
        loss=nn.BCEWithLogitsLoss(),
        optimizer=instantiate(found["optimizer"], partial=True),
        scheduler=instantiate(found["scheduler"], partial=True),
    )
    optimizer = task.configure_optimizers()
    assert task.monitor == "loss" and task.plateau is not None
    for _ in range(12):  # the first is the best; 11 without progress are one more than it waits
        task.plateau.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


class Plain(nn.Module):
    """Finds what is bright in the second visit; counts slices by their shape."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def forward(self, images):
        shape = tuple(images.shape[2:])
        self.seen[shape] = self.seen.get(shape, 0) + len(images)
        return images[:, 1:] * 10 - 5


def test_one_network_reads_all_planes_and_two_of_three_decide():
    infer = instantiate(config()["infer"])
    assert (infer.combine_at, infer.rule, infer.threshold) == ("binary", "majority", 0.5)
    network, images = Plain(), torch.rand(2, 6, 7, 8)
    found = infer(network, images)
    assert network.seen == {(7, 8): 6, (6, 8): 7, (6, 7): 8}
    torch.testing.assert_close(found, (images[1:] > 0.5).float())


def test_planes_are_read_one_by_one_where_folds_are_averaged_first():
    """``average_then_vote``: each view is one plane's probabilities, their votes are the rule's."""
    infer, images = instantiate(config()["infer"]), torch.rand(2, 6, 7, 8)
    maps = []
    for view, shape in zip(infer.views(), ((7, 8), (6, 8), (6, 7)), strict=True):
        network = Plain()
        maps.append(view(network, images))
        assert list(network.seen) == [shape] and view.level == "probability"
    torch.testing.assert_close(maps[0], (images[1:] * 10 - 5).sigmoid())
    assert infer.combine_at == "binary" and len(infer.axes) == 3  # the rule itself is as it was
    chosen = config("ensemble.level=view", "ensemble.rule=majority")["ensemble"]
    EnsembleMethod({"x": Plain}, 1, bool, chosen["level"], chosen["rule"])


def test_planes_vote_before_folds_are_averaged():
    """Of five folds three say lesion: at least half of them. Two do not."""
    native = Native(Grid((2, 1, 1), np.eye(4)), b"")
    votes = {0: (1, 1), 1: (1, 0), 2: (1, 1), 3: (0, 0), 4: (0, 0)}

    class Fold:
        def load(self, folder):
            self.fold = int(folder.name[-1])

        def predict(self, subject):
            mask = np.array(votes[self.fold], np.uint8).reshape(2, 1, 1)
            return Prediction(subject.id, mask, native, mask * np.float32(0.6))

    found = config()
    ensemble = EnsembleMethod(
        {"triplanar_unet": Fold},
        folds=5,
        has_lesions=lambda subject: True,
        level=found["ensemble"]["level"],
        rule=found["ensemble"]["rule"],
        postprocess=postprocess_rules(found),
    )
    ensemble.models = Path("members")
    answer = ensemble.predict(LongitudinalSubject("p", "p", {}))
    np.testing.assert_allclose(answer.probability.ravel(), [0.6, 0.4])
    assert answer.mask.ravel().tolist() == [1, 0]
    assert not postprocess_rules(found)[0].strict  # half of an even number of folds is enough
