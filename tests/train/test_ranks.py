"""Two processes give the result of one, and end together."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from functools import partial
from multiprocessing import get_context

import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.train import ranks
from msseg_lightning.train.curves import read_curves
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.ranks import (
    _FollowerWatch,
    external_environment,
    max_over_ranks,
    on_all_processes,
    run_follower,
)
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import Hardware, Training

STEPS, EVERY, ELEMENTS = 8, 4, 4


class Patches:
    """Two elements per batch, numbered over ranks; notes who asked for which.

    While a file ``deadly`` lies there the second process dies at step 6.
    """

    def __init__(self, notes):
        self.notes = notes

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for step in range(start_step, stop_step):
            if (self.notes / "deadly").exists() and step == 6 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            numbers = [2 * rank + index for index in range(2)]
            note(self.notes / "patches", *(f"{step}:{number}" for number in numbers))
            draws = [keyed_generator(7, "toy", step, number) for number in numbers]
            shape = (2, 4, 4, 4)
            images = torch.stack([torch.from_numpy(draw.normal(size=shape)) for draw in draws])
            images = images.float()
            target = (images[:, 1:] > images[:, :1]).float()
            yield Batch(images, target, ("a", "b"), torch.ones(2))


class Volumes:
    """Scores a pair by what the network makes of it."""

    def __init__(self, notes):
        self.notes = notes

    def __call__(self, network, subject):
        note(self.notes / "volumes", f"{subject.id}:{os.getpid()}")
        volume = keyed_generator(8, subject.id).normal(size=(1, 2, 4, 4, 4))
        return {"score": float(network(torch.from_numpy(volume).float()).sigmoid().mean())}


class Pair:
    def __init__(self, name):
        self.id = name


def note(file, *lines):
    with file.open("a") as stream:
        stream.write("".join(f"{line}\n" for line in lines))


def fit(notes, devices):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1, 1))
    task = Task(network, nn.BCEWithLogitsLoss(), partial(torch.optim.AdamW, lr=0.01))
    task.validator = Volumes(notes)
    accumulate = 2 // devices
    pairs = [Pair(name) for name in "abc"]
    Training(STEPS, 2, EVERY, accumulate, checkpoint_minutes=0.0).fit(
        task,
        LongitudinalDataModule(Patches(notes), pairs, EVERY, accumulate),
        notes / "fit",
        Hardware("cpu", devices, precision="32-true"),
    )
    return read_curves(notes / "fit" / "curves.csv")


def test_a_killed_process_ends_all_and_the_next_call_goes_on_as_one_would(tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir()
    both.mkdir()
    expected = fit(alone, 1)

    (both / "deadly").touch()
    start = time.monotonic()
    with pytest.raises(MssegError) as caught:
        fit(both, 2)
    assert time.monotonic() - start < 60
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "exit code -9" in str(caught.value)
    (both / "deadly").unlink()
    found = fit(both, 2)

    rows = [(row["step"], row["name"]) for row in expected]
    assert [(row["step"], row["name"]) for row in found] == rows
    for one, other in zip(expected, found, strict=True):
        assert other["value"] == pytest.approx(one["value"], rel=1e-5)

    wanted = {f"{step}:{number}" for step in range(STEPS) for number in range(ELEMENTS)}
    seen = Counter((both / "patches").read_text().split())
    assert set(seen) == wanted
    # Lightning asks for one batch more than it uses, so some beside the death are asked for again
    assert all(times == 1 or text[0] in "567" for text, times in seen.items())
    validated = [line.split(":") for line in (both / "volumes").read_text().split()]
    assert Counter(name for name, _ in validated) == {"a": 2, "b": 2, "c": 2}
    assert len({process for _, process in validated}) == 3  # the leader, and a follower per fit


class Gone:
    """A killed process whose pipe has closed, but whose exit code comes a moment later.

    That is also what one of two threads sees that ask at once: to wait for the process tells it
    nothing, as the other has just done so.
    """

    name, pid = "rank1", 1

    def __init__(self):
        self.sentinel, other = os.pipe()
        os.close(other)
        self.codes = [None, None]

    @property
    def exitcode(self):
        return self.codes.pop() if self.codes else -9

    def join(self, timeout):
        pass


def test_a_death_is_noticed_before_its_exit_code_is_known(monkeypatch):
    with pytest.raises(MssegError, match="exit code -9"):
        _FollowerWatch([Gone()]).raise_if_follower_died(RuntimeError("connection reset"))
    ends = []
    monkeypatch.setattr(ranks, "GRACE_S", 0.2)
    monkeypatch.setattr(ranks.os, "_exit", ends.append)
    gone = Gone()
    gone.kill = lambda: None
    _FollowerWatch([gone]).run()
    assert ends == [ExitCode.ENVIRONMENT]


def test_a_process_that_was_never_started_does_not_hide_why():
    never = get_context("spawn").Process(target=print)
    with pytest.raises(MssegError, match="exit code -9"):
        _FollowerWatch([Gone(), never]).raise_if_follower_died(
            RuntimeError("could not start another")
        )


def test_alone_nothing_is_waited_for(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert external_environment() is None
    assert run_follower() is None
    assert max_over_ranks(3) == 3


def test_the_number_of_processes_must_be_the_one_asked_for(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MssegError) as caught, on_all_processes(2, 1, print):
        pass
    assert caught.value.exit_code == ExitCode.CONFIG
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(MssegError, match="torchrun"), on_all_processes(2, 2, print):
        pass
