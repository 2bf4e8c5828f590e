"""A training that ends by time: how it ends, where its schedule is, and what a resume counts."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.problem import MssegError
from msseg_lightning.train import training as module_of_training
from msseg_lightning.train.budget import TimeBudget
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import DONE, Hardware, Training

CPU = Hardware(accelerator="cpu", precision="32-true")


class Clock:
    """Every optimiser step takes six seconds."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Patches:
    def __init__(self, clock, stop_at=None):
        self.clock, self.stop_at, self.seen = clock, stop_at, 0

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for step in range(start_step, stop_step):
            if step == self.stop_at:
                raise RuntimeError("power cut")
            self.clock.now += 6.0
            self.seen += 1
            yield Batch(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2), ("a",), torch.ones(1))


def fit(folder, monkeypatch, minutes, steps, stop_at=None, every=100):
    """The rate of a schedule that ends at 0 after ``steps``, at each optimiser step."""
    clock, rates, validated = Clock(), [], []
    monkeypatch.setattr(module_of_training.time, "process_time", clock)
    rule = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 - step / steps)
    task = Task(nn.Conv3d(1, 1, 1), nn.MSELoss(), partial(torch.optim.SGD, lr=1.0), rule)
    before = task.on_before_optimizer_step

    def note(optimizer):
        rates.append(round(optimizer.param_groups[0]["lr"], 3))
        before(optimizer)

    def validator(network, subject):
        validated.append(task.global_step)
        return {"score": 0.5}

    task.on_before_optimizer_step, task.validator = note, validator
    data = LongitudinalDataModule(Patches(clock, stop_at), [SimpleNamespace(id="p")], every)
    training = Training(
        steps=steps, batch_size=1, validate_every=every, minutes=minutes, checkpoint_minutes=0.0
    )
    training.fit(task, data, folder, CPU)
    return rates, validated, json.loads((folder / DONE).read_text())


def test_it_ends_when_its_minutes_are_spent_and_validates_then(tmp_path, monkeypatch):
    # one minute holds ten steps; the schedule of five steps is stretched over them
    rates, validated, done = fit(tmp_path, monkeypatch, minutes=1, steps=5)
    assert done["step"] == 10 and validated == [10] and done["best_step"] == 10
    assert 1.0 <= done["minutes"] < 1.2
    assert rates[0] == rates[1] == 1.0 and rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 5


def test_a_schedule_longer_than_the_training_is_shortened(tmp_path, monkeypatch):
    rates, _, done = fit(tmp_path, monkeypatch, minutes=1, steps=1000)
    assert done["step"] == 10
    assert rates[-1] == pytest.approx(0.2)  # all of it was run through, not ten of a thousand steps


def test_without_minutes_they_are_counted_only(tmp_path, monkeypatch):
    rates, _, done = fit(tmp_path, monkeypatch, minutes=None, steps=4)
    assert done["step"] == 4 and rates == [1.0, 0.75, 0.5, 0.25]
    assert 0.3 < done["minutes"] < 0.6


def test_a_resumed_training_has_only_what_is_left(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, monkeypatch, minutes=1, steps=5, stop_at=6)
    rates, _, done = fit(tmp_path, monkeypatch, minutes=1, steps=5)
    assert len(rates) < 10 and done["step"] == 10
    assert rates[0] < 0.7 and 1.0 <= done["minutes"] < 1.3


def test_a_budget_that_was_spent_before_stops_at_once():
    budget = TimeBudget(0.5, 10, lambda: 0.0)
    budget.load_state_dict({"spent_s": 31.0})
    trainer = SimpleNamespace(should_stop=False)
    budget.on_train_start(trainer)
    assert trainer.should_stop and budget.position() == 10 and budget.minutes == 0.5167


@pytest.mark.parametrize("minutes", [0, -1.0, float("inf"), "many"])
def test_a_length_that_is_none_is_refused(minutes):
    with pytest.raises(MssegError, match=r"train\.minutes"):
        Training(steps=1, batch_size=1, validate_every=1, minutes=minutes)
