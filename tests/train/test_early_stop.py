"""Training ends by itself when it no longer gets better, resumed or not."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.train.checkpoint import LAST, KeepCheckpoints
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.early_stop import StopWithoutProgress
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import DONE, Hardware, Training

CPU = Hardware(accelerator="cpu", precision="32-true")
PAIR = SimpleNamespace(id="pair")


class Patches:
    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for _ in range(start_step, stop_step):
            yield Batch(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2), ("a",), torch.ones(1))


def fit(folder, scores, stop_after, callbacks=(), val=(PAIR,)):
    """Validate every second step; the n-th validation scores ``scores[n]``."""
    task = Task(nn.Conv3d(1, 1, 1), nn.MSELoss(), partial(torch.optim.SGD, lr=0.0))

    def validator(network, subject):
        return {"score": scores[task.global_step // 2 - 1]}

    task.validator = validator
    data = LongitudinalDataModule(Patches(), list(val), epoch_steps=2)
    training = Training(steps=20, batch_size=1, validate_every=2, stop_after=stop_after)
    training.fit(task, data, folder, CPU, callbacks=callbacks)
    return json.loads((folder / DONE).read_text())


RISES_THREE_TIMES = [0.1, 0.3, 0.2, 0.4, 0.4, 0.3, 0.2, 0.9, 0.9, 0.9]


def test_it_stops_after_so_many_validations_without_a_better_score(tmp_path):
    # best at the 4th validation (step 8); an equal score is no progress: 5th, 6th and 7th wait
    done = fit(tmp_path, RISES_THREE_TIMES, 3)
    assert (done["step"], done["best_step"], done["best_score"]) == (14, 8, pytest.approx(0.4))


def test_patience_bridges_a_plateau_and_none_goes_on_to_the_end(tmp_path):
    assert fit(tmp_path / "a", RISES_THREE_TIMES, 4)["best_step"] == 16
    assert fit(tmp_path / "b", RISES_THREE_TIMES, None)["step"] == 20


def test_without_validation_it_trains_its_full_length(tmp_path):
    assert fit(tmp_path, [], 1, val=())["step"] == 20


class Die(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("step", [6, 13])
def test_a_resumed_run_stops_where_it_would_have_stopped(tmp_path, step):
    with pytest.raises(RuntimeError):
        fit(tmp_path, RISES_THREE_TIMES, 3, [Die(step)])
    assert (tmp_path / LAST).exists()
    assert fit(tmp_path, RISES_THREE_TIMES, 3)["step"] == 14


def test_killed_between_the_last_validation_and_the_end_it_trains_no_further(tmp_path):
    fit(tmp_path, RISES_THREE_TIMES, 3)
    (tmp_path / DONE).unlink()
    assert fit(tmp_path, RISES_THREE_TIMES, 3)["step"] == 14


def test_the_number_must_be_one():
    with pytest.raises(MssegError, match="stop_after") as error:
        Training(steps=1, batch_size=1, validate_every=1, stop_after=0)
    assert error.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("best", "step", "stops"), [(10, 19, False), (10, 20, True), (None, 99, False)]
)
def test_it_waits_for_so_many_validations_after_the_best(tmp_path, best, step, stops):
    keep = KeepCheckpoints(tmp_path)
    if best is not None:
        keep.best_score, keep.best_step = 0.5, best
    trainer = SimpleNamespace(global_step=step, should_stop=False)
    StopWithoutProgress(keep, validations=2, every=5).on_train_epoch_end(trainer)
    assert trainer.should_stop == stops
