"""Mining by a momentum network: the formula, the choice, and resuming in the middle."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.train.checkpoint import LAST, read_checkpoint
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.mining import MomentumMining
from msseg_lightning.train.training import Hardware, Training
from tests.train.test_training import StopAt, die

CPU = Hardware(accelerator="cpu", precision="32-true")


class Pool:
    """Patches of 4^3 voxels of growing difficulty, a third of them without lesion."""

    def __init__(self, patches=12):
        self.patches = patches

    def batch(self, step):
        draw = keyed_generator(3, "pool", step)
        images = torch.from_numpy(draw.normal(size=(self.patches, 2, 4, 4, 4)).astype("float32"))
        target = (images[:, 1:] > images[:, :1] + 0.5).float()
        target[::3] = 0
        return Batch(images, target, ("a",) * self.patches, torch.ones(self.patches))

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for step in range(start_step, stop_step):
            yield self.batch(step)


class Recorder(MomentumMining):
    """Keeps a copy of both networks after every step."""

    def update_teacher(self):
        old = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        super().update_teacher()
        new = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        student = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.__dict__.setdefault("history", []).append((old, student, new))


def task(kind=MomentumMining, momentum=0.9, **changes):
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1)
    )
    settings = {"keep": 3, "momentum": momentum, **changes}
    return kind(network, SoftDice(False, 1.0), partial(torch.optim.Adam, lr=0.01), **settings)


def fit(module, folder: Path, steps=12, callbacks=(), **changes):
    settings = {"steps": steps, "batch_size": 12, "validate_every": 4, "checkpoint_minutes": 0.0}
    data = LongitudinalDataModule(Pool(), epoch_steps=4, accumulate=changes.get("accumulate", 1))
    training = Training(**{**settings, **changes})
    training.fit(module, data, folder, CPU, callbacks=callbacks)
    return module


def test_the_teacher_follows_the_formula_at_every_step(tmp_path):
    module = fit(task(Recorder), tmp_path)
    assert len(module.history) == 12
    before = None
    for old, student, new in module.history:
        for name, value in new.items():
            if value.is_floating_point():
                expected = 0.9 * old[name].double() + 0.1 * student[name].double()
                torch.testing.assert_close(value.double(), expected, rtol=1.2e-7, atol=1e-7)
            else:
                assert torch.equal(value, student[name])
        if before is not None:  # nothing moves the teacher between two steps
            assert all(torch.equal(old[name], before[name]) for name in old)
        before = new
    assert not torch.equal(module.teacher[0].weight, module.network[0].weight)


def test_both_networks_begin_equal_and_the_teacher_has_no_gradient(tmp_path):
    module = task()
    assert all(
        torch.equal(slow, fast)
        for slow, fast in zip(module.teacher.parameters(), module.network.parameters(), strict=True)
    )
    fit(module, tmp_path)
    assert all(p.grad is None and not p.requires_grad for p in module.teacher.parameters())
    optimised = {
        id(p) for group in module.parameter_groups(module.network) for p in group["params"]
    }
    assert not optimised & {id(p) for p in module.teacher.parameters()}


def test_without_momentum_both_networks_stay_equal(tmp_path):
    module = fit(task(momentum=0.0), tmp_path)
    for slow, fast in zip(module.teacher.parameters(), module.network.parameters(), strict=True):
        assert torch.equal(slow, fast)


def test_accumulated_batches_move_the_teacher_once(tmp_path):
    module = fit(task(Recorder), tmp_path, steps=4, accumulate=3)
    assert len(module.history) == 4


def hand_dice(logits, target):
    """Per patch, from the definition."""
    probability = 1 / (1 + torch.exp(-logits.double()))
    hit = (probability * target).flatten(1).sum(1)
    total = probability.flatten(1).sum(1) + target.flatten(1).sum(1)
    return 1 - (2 * hit + 1) / (total + 1)


@pytest.mark.parametrize("error", ["loss", "cross_entropy"])
def test_the_kept_patches_are_the_hardest_for_the_teacher(error):
    module = task(keep=5, error=error)
    with torch.no_grad():  # a teacher of another mind than the student
        for weight in module.teacher.parameters():
            weight.add_(torch.randn_like(weight) * 0.5)
    module.train()
    batch, seen = Pool(32).batch(0), []
    with torch.no_grad():
        module.teacher.eval()
        logits = module.teacher(batch.images)
    if error == "loss":
        errors = hand_dice(logits, batch.target)
    else:
        entropy = nn.functional.binary_cross_entropy_with_logits
        errors = entropy(logits, batch.target, reduction="none").flatten(1).mean(1)
    hardest = set(errors.argsort(descending=True)[:5].tolist())
    module.network.register_forward_hook(lambda m, inputs, o: seen.append(inputs[0]))
    output = module.step(batch)
    (trained,) = seen
    found = {
        index
        for index, image in enumerate(batch.images)
        if any(torch.equal(image, kept) for kept in trained)
    }
    assert len(trained) == 5 and found == hardest
    torch.testing.assert_close(output.logs["pool_error"], errors.mean().float())
    easiest = errors[[i for i in range(32) if i not in hardest]].max()
    assert min(errors[list(hardest)]) >= easiest


@pytest.mark.parametrize("step", [3, 4, 9])
def test_stopped_anywhere_both_networks_end_equal(tmp_path, step):
    whole = fit(task(), tmp_path / "whole").state_dict()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(task(), tmp_path / "cut", callbacks=[StopAt(step, die)])
    saved = read_checkpoint(tmp_path / "cut" / LAST)["state_dict"]
    assert {name for name in saved if name.startswith("teacher.")}
    resumed = fit(task(), tmp_path / "cut").state_dict()
    assert list(whole) == list(resumed)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_pool_that_is_too_small():
    with pytest.raises(ValueError, match="12 patches has no 40"):
        task(keep=40).step(Pool().batch(0))
    with pytest.raises(ValueError, match="momentum"):
        task(momentum=1.5)
    with pytest.raises(ValueError, match="is not loss"):
        task(error="dice")
