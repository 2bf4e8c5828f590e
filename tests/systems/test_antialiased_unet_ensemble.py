"""What the card of S13 says of the whole system."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import LongitudinalSubject, Native
from msseg_lightning.core.volume import Grid
from msseg_lightning.infer.aggregate import flip_sets
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.run.assemble.system import instantiate, postprocess_rules
from msseg_lightning.run.config.compose import compose_config

NATIVE = Native(Grid((8, 8, 8), np.eye(4)), b"")


def config(*words):
    return compose_config(("read.root=.", *words), "antialiased_unet_ensemble")


def test_the_numbers_of_the_paper():
    found = config()
    assert found["ensemble"]["folds"] == 5 and not found["ensemble"]["members"]
    assert found["sample"]["weights"] == {"brain": 1, "new_lesions": 100}
    train = found["train"]
    assert (train["optimizer"]["lr"], train["optimizer"]["momentum"]) == (0.001, 0.95)
    assert (train["batch_size"], train["stop_after"] * train["validate_every"]) == (4, 2000)
    recipe = instantiate(found["augment"]).recipe
    assert recipe.affine.probability == recipe.elastic.probability == 0.75
    assert recipe.elastic_share == 0.2
    operations = (recipe.bias_field, recipe.gamma, recipe.blur, recipe.noise)
    assert [operation.probability for operation in operations] == [0.5, 0.8, 0.2, 0.35]


def test_black_is_minus_one_for_the_network():
    """Prepared from 0 to 2, so that what a patch or window lacks of a volume is black too."""
    found = config()
    normalise, network = found["preprocess"]["steps"]["normalise"], found["network"]["network"]
    assert (normalise["low"], normalise["high"]) == (0.05, 99.5)
    offset = network["offset"]
    assert (normalise["out_low"] + offset, normalise["out_high"] + offset) == (-1, 1)
    assert normalise["out_low"] == 0


class Member:
    """A fitted fold: its own weights, the inference rule of the experiment."""

    def __init__(self, infer, images):
        self.infer, self.images = infer, images
        self.network: nn.Module | None = None

    def load(self, folder):
        torch.manual_seed(int(folder.name[-1]))
        self.network = nn.Conv3d(2, 1, 3, padding=1)
        calls.setdefault(folder.name, 0)

        def count(*_):
            calls[folder.name] += 1

        self.network.register_forward_hook(count)

    def predict(self, subject):
        probability = self.infer(self.network, self.images)[0].numpy()
        return Prediction(subject.id, (probability > 0.5).astype(np.uint8), NATIVE, probability)


calls: dict[str, int] = {}


def test_a_prediction_is_the_mean_of_exactly_eight_flips_of_five_models(tmp_path):
    calls.clear()
    found = config("infer.window.size=8")  # the whole volume is one window
    assert len(flip_sets(found["infer"]["axes"])) == 8
    torch.manual_seed(9)
    images = torch.randn(2, 8, 8, 8)
    settings = {key: found["ensemble"][key] for key in ("folds", "level", "rule")}
    infer = instantiate(found["infer"])
    ensemble = EnsembleMethod(
        {"segment": lambda: Member(infer, images)}, has_lesions=lambda _: True, **settings
    )
    ensemble.models = tmp_path
    answer = ensemble.predict(LongitudinalSubject("a", "a", {}))
    assert len(calls) == 5 and set(calls.values()) == {8}
    total = torch.zeros(8, 8, 8)
    for fold in range(5):
        torch.manual_seed(fold)
        network = nn.Conv3d(2, 1, 3, padding=1)
        for axes in flip_sets((0, 1, 2)):
            turn = [1 + axis for axis in axes]
            with torch.no_grad():
                total += network(images.flip(turn)[None])[0].flip(turn).sigmoid()[0] / 40
    np.testing.assert_allclose(answer.probability, total, atol=1e-5)


def test_a_majority_of_votes_can_be_asked_for():
    """What the released script does, by overrides alone."""
    found = config("infer.level=binary", "infer.rule=majority", "infer.window.size=8")
    infer = instantiate(found["infer"])
    answer = infer(nn.Conv3d(2, 1, 1), torch.randn(2, 8, 8, 8))
    assert infer.level == "probability" and set(answer.unique().tolist()) <= {0.0, 1.0}
    assert config("ensemble.level=binary", "ensemble.rule=majority")["ensemble"]["rule"]


def test_small_holes_are_filled_and_specks_dropped():
    mask = np.zeros((24, 24, 24), np.float32)
    mask[1:7, 1:7, 1:7] = 1  # 6^3 with a hole of 4^3 = 64
    mask[2:6, 2:6, 2:6] = 0
    mask[8:15, 8:15, 8:15] = 1  # 7^3 with a hole of 65
    mask[9:13, 9:13, 9:13] = 0
    mask[13, 9, 9] = 0
    mask[20, 20, 20:22] = 1  # 2 voxels
    mask[1, 20, 20:23] = 1  # 3 voxels
    mask[20, 1, 1], mask[21, 2, 1], mask[22, 1, 1] = 1, 1, 1  # 3 that touch at edges only
    native = Native(Grid(mask.shape, np.eye(4)), b"")
    prediction = Prediction("a", mask.astype(np.uint8), native, mask)
    for rule in postprocess_rules(config()):
        prediction = rule(prediction)
    found = prediction.mask
    assert found[1:7, 1:7, 1:7].all() and not found[9:13, 9:13, 9:13].any()
    assert found[20].sum() == found[22].sum() == 0 and found[1, 20, 20:23].all()
