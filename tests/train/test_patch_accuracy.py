"""``val/accuracy`` is that of patches: of other patients, or of those held back."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.curves import read_curves
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.patch_accuracy import PatchAccuracy
from msseg_lightning.train.training import Hardware, Training

CPU = Hardware(accelerator="cpu", precision="32-true")


class Loss(nn.Module):
    def parts(self, output, target):
        return {"near": (output - target).square().mean(), "small": 0.5 * output.abs().mean()}


class Patches:
    """Batches of which a known share of voxels lies above 0; their target is 1 everywhere."""

    def __init__(self, subjects=(), share=0.5, others=None):
        self.share = subjects[0].share if subjects else share
        self.others = others

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for _ in range(start_step, stop_step):
            images = torch.full((2, 1, 10, 10), -1.0)
            images.view(2, -1)[:, : round(100 * self.share)] = 1.0
            yield Batch(images, torch.ones(2, 1, 10, 10), ("a", "b"), torch.ones(2))

    def held_back(self):
        return self.others


def task(**changes):
    made = PatchAccuracy(
        network=nn.Identity(),
        loss=Loss(),
        optimizer=partial(torch.optim.SGD, lr=0.0),
        cut=Patches,
        **{"batches": 2, **changes},
    )
    made.network = nn.Conv2d(1, 1, 1)
    nn.init.ones_(made.network.weight)
    nn.init.zeros_(made.network.bias)
    made.validator = lambda network, subject: {"score": 0.5}
    return made


def curves(source, folder):
    pairs = [SimpleNamespace(id="p1", share=0.6), SimpleNamespace(id="p2", share=0.9)]
    made, data = task(), LongitudinalDataModule(source, pairs, epoch_steps=1)
    settings = Training(steps=1, batch_size=2, validate_every=1, monitor="accuracy")
    settings.fit(made, data, folder, CPU)
    return {row["name"]: row["value"] for row in read_curves(folder / "curves.csv")}


def test_accuracy_is_the_mean_over_the_patches_of_validation_pairs(tmp_path):
    found = curves(Patches(), tmp_path)
    assert found["val/accuracy"] == pytest.approx((0.6 + 0.9) / 2)
    assert found["val/score"] == 0.5
    # images are 1 and -1, half of each: (0 + 4) / 2, and 0.5 * 1
    assert found["train/near"] == pytest.approx(2.0)
    assert found["train/small"] == pytest.approx(0.5)
    assert found["train/loss"] == pytest.approx(2.5)


def test_where_patches_are_held_back_accuracy_is_theirs(tmp_path):
    found = curves(Patches(others=Patches(share=0.2)), tmp_path)
    assert found["val/accuracy"] == pytest.approx(0.2)
    assert found["val/score"] == 0.5


def test_at_least_one_batch():
    with pytest.raises(ValueError, match="nothing"):
        task(batches=0)
