"""``val/loss`` is known, and a learning rate can follow it through any interruption."""

from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.train.curves import read_curves
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.training import Hardware, Training
from msseg_lightning.train.validation_loss import ValidationLossTask

CPU = Hardware(accelerator="cpu", precision="32-true")


class Toy:
    """The same few batches for the same subjects; a pair's target decides how hard it is."""

    def __init__(self, subjects, seed=1):
        self.subjects, self.seed = subjects, seed

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for step in range(start_step, stop_step):
            draw = keyed_generator(self.seed, "toy", step)
            images = torch.from_numpy(draw.normal(size=(2, 1, 4, 4)).astype("float32"))
            target = (images > 0).float()
            yield Batch(images, target, ("a", "b"), torch.ones(2))


def task(rate=0.5, **changes):
    torch.manual_seed(0)
    made = ValidationLossTask(
        network=nn.Conv2d(1, 1, 1),
        loss=nn.BCEWithLogitsLoss(),
        optimizer=partial(torch.optim.SGD, lr=rate),
        scheduler=partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1),
        cut=partial(Toy, seed=9),
        **{"batches": 3, **changes},
    )
    made.validator = lambda network, subject: {"score": 0.5}
    return made


def pairs():
    return [SimpleNamespace(id="p1"), SimpleNamespace(id="p2")]


def fit(made, folder, steps=12, callbacks=()):
    data = LongitudinalDataModule(Toy([]), pairs(), epoch_steps=2)
    settings = Training(steps=steps, batch_size=2, validate_every=2, checkpoint_minutes=0.0)
    settings.fit(made, data, folder, CPU, callbacks=callbacks)
    return made


def test_the_loss_is_the_mean_over_fixed_batches(tmp_path):
    made = fit(task(), tmp_path, steps=2)
    batches = list(Toy([], seed=9).iterate(0, 3))
    with torch.no_grad():
        expected = torch.stack([made.loss(made.network(b.images), b.target) for b in batches])
    rows = read_curves(tmp_path / "curves.csv")
    (found,) = (row["value"] for row in rows if row["name"] == "val/loss")
    assert found == pytest.approx(float(expected.mean()), rel=1e-5)


def test_the_rate_falls_when_the_loss_stands_still(tmp_path):
    """A rate of 0 leaves the loss where it is: every validation after the first is a plateau."""
    still = fit(task(rate=0.0, monitor="loss"), tmp_path / "still", steps=8)
    assert still.plateau.num_bad_epochs == 0 and still.plateau.last_epoch == 4
    moving = fit(task(), tmp_path / "moving", steps=8)
    assert moving.trainer.optimizers[0].param_groups[0]["lr"] == 0.5
    score = fit(task(monitor="score"), tmp_path / "score", steps=8)  # a score of 0.5 for ever
    assert score.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5e-3)


class Stop(L.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 5:
            raise RuntimeError("power cut")


def test_a_resumed_run_remembers_its_plateaus(tmp_path):
    whole = fit(task(monitor="score"), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(task(monitor="score"), tmp_path / "cut", callbacks=[Stop()])
    resumed = fit(task(monitor="score"), tmp_path / "cut")
    torch.testing.assert_close(resumed.network.weight, whole.network.weight, rtol=0, atol=0)
    assert resumed.plateau.state_dict() == whole.plateau.state_dict()
    assert resumed.plateau.last_epoch == 6
    rate = resumed.trainer.optimizers[0].param_groups[0]["lr"]
    assert rate == whole.trainer.optimizers[0].param_groups[0]["lr"] < 0.5


def test_at_least_one_batch():
    with pytest.raises(ValueError, match="nothing"):
        task(batches=0)
