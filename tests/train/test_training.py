"""A fit that is interrupted at any step continues with the same result."""

from __future__ import annotations

import json
import os
import re
import signal
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.train import training as module_of_training
from msseg_lightning.train.checkpoint import BEST, LAST, read_checkpoint
from msseg_lightning.train.curves import Progress, read_curves
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import DONE, Hardware, Training

CPU = Hardware(accelerator="cpu", precision="32-true")


class Patches:
    """Learnable: the target is where the second visit is brighter."""

    def __init__(self):
        self.seen = []

    def iterate(self, start_step, stop_step, rank=0, world_size=1):
        for step in range(start_step, stop_step):
            self.seen.append(step)
            draw = keyed_generator(7, "toy", step, rank)
            images = torch.from_numpy(draw.normal(size=(2, 2, 4, 4, 4)).astype("float32"))
            target = (images[:, 1:] > images[:, :1]).float()
            yield Batch(images, target, ("a", "b"), torch.ones(2))


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(4, 1, 1)
    )


def task(**changes):
    return Task(
        network(),
        nn.BCEWithLogitsLoss(),
        partial(torch.optim.AdamW, lr=0.01),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=22),
        **changes,
    )


def training(**changes):
    settings = dict(steps=22, batch_size=2, validate_every=5, checkpoint_minutes=0.0)
    return Training(**{**settings, **changes})


class StopAt(L.Callback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            self.act()


def die():
    raise RuntimeError("power cut")


def weights(module):
    return torch.cat([value.flatten() for value in module.network.state_dict().values()])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    whole = task()
    folder = tmp_path_factory.mktemp("whole")
    training().fit(whole, LongitudinalDataModule(Patches(), epoch_steps=5), folder, CPU)
    return weights(whole), folder


@pytest.mark.parametrize("step", [1, 5, 7, 20])
def test_stopped_anywhere_the_weights_end_equal(tmp_path, uninterrupted, step):
    first = LongitudinalDataModule(Patches(), epoch_steps=5)
    with pytest.raises(RuntimeError, match="power cut"):
        training().fit(task(), first, tmp_path, CPU, callbacks=[StopAt(step, die)])
    second = Patches()
    resumed = task()
    training().fit(resumed, LongitudinalDataModule(second, epoch_steps=5), tmp_path, CPU)
    torch.testing.assert_close(weights(resumed), uninterrupted[0], rtol=0, atol=0)
    assert sorted(set(second.seen)) == list(range(step, 22)) or second.seen[0] == step
    steps = [row["step"] for row in read_curves(tmp_path / "curves.csv")]
    assert steps == [row["step"] for row in read_curves(uninterrupted[1] / "curves.csv")]


def test_accumulated_batches_resume_between_optimiser_steps(tmp_path):
    def fit(folder, callbacks=()):
        module, settings = task(), training(steps=6, accumulate=3, validate_every=4)
        data = LongitudinalDataModule(Patches(), epoch_steps=4, accumulate=3)
        settings.fit(module, data, folder, CPU, callbacks=callbacks)
        return weights(module)

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "cut", [StopAt(3, die)])
    torch.testing.assert_close(fit(tmp_path / "cut"), whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGUSR1, ExitCode.PREEMPTED),
    ],
)
def test_a_signal_saves_and_tells_the_truth(tmp_path, uninterrupted, number, code):
    stop = StopAt(6, lambda: os.kill(os.getpid(), number))
    data = LongitudinalDataModule(Patches(), epoch_steps=5)
    settings = training(checkpoint_minutes=10)
    with pytest.raises(MssegError) as caught:
        settings.fit(task(), data, tmp_path, CPU, callbacks=[stop])
    assert caught.value.exit_code == code
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    settings.fit(task(), LongitudinalDataModule(Patches(), epoch_steps=5), tmp_path, CPU)
    curves = [read_curves(folder / "curves.csv") for folder in (tmp_path, uninterrupted[1])]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_during_validation_waits_for_its_scores(tmp_path, number):
    def fit(folder, act=lambda: None):
        def validate(network, subject):
            act()
            return {"score": float(weights(module).sum())}

        module = task()
        module.validator = validate
        data = LongitudinalDataModule(Patches(), [SimpleNamespace(id="a")], epoch_steps=5)
        training(steps=15).fit(module, data, folder, CPU)
        return read_curves(folder / "curves.csv")

    with pytest.raises(MssegError, match="after step 5"):
        fit(tmp_path / "cut", lambda: os.kill(os.getpid(), number))
    assert fit(tmp_path / "cut") == fit(tmp_path / "whole")


def test_other_numbers_of_batches_make_the_same_steps(tmp_path):
    """A run goes on with less accumulation when there are more devices: here, smaller batches."""

    def fit(folder, accumulate, callbacks=()):
        module = task()
        data = LongitudinalDataModule(Patches(), epoch_steps=4, accumulate=accumulate)
        settings = training(steps=6, accumulate=accumulate, validate_every=4)
        settings.fit(module, data, folder, CPU, callbacks=callbacks)
        return [r["step"] for r in read_curves(folder / "curves.csv") if r["name"] == "train/loss"]

    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, 2, [StopAt(3, die)])
    assert fit(tmp_path, 3) == [0, 1, 2, 3, 4, 5]


def test_the_best_validated_weights_are_kept(tmp_path):
    class Subject:
        id = "a"

    scores = iter([0.1, 0.9, 0.3, 0.2])
    module = task()
    module.validator = lambda network, subject: {"score": next(scores)}
    data = LongitudinalDataModule(Patches(), [Subject()], epoch_steps=5)
    training(steps=20).fit(module, data, tmp_path, CPU)
    best = read_checkpoint(tmp_path / BEST)
    assert best["global_step"] == 10
    assert json.loads((tmp_path / DONE).read_text())["best_score"] == pytest.approx(0.9)
    torch.testing.assert_close(
        weights(module), torch.cat([v.flatten() for v in best["state_dict"].values()])
    )


def test_weights_are_kept_by_the_score_that_is_asked_for(tmp_path):
    class Subject:
        id = "a"

    scores = iter([(0.1, 0.9), (0.9, 0.1), (0.3, 0.2)])
    module = task()
    module.validator = lambda *_: dict(zip(("score", "dice_or_empty"), next(scores), strict=True))
    data = LongitudinalDataModule(Patches(), [Subject()], epoch_steps=5)
    training(steps=15, monitor="dice_or_empty").fit(module, data, tmp_path, CPU)
    assert read_checkpoint(tmp_path / BEST)["global_step"] == 5
    assert json.loads((tmp_path / DONE).read_text())["best_score"] == pytest.approx(0.9)


def test_the_loss_falls(uninterrupted):
    losses = [
        r["value"]
        for r in read_curves(uninterrupted[1] / "curves.csv")
        if r["name"] == "train/loss"
    ]
    assert losses[-1] < losses[0]


def test_a_loss_that_is_not_finite_stops_with_its_own_code(tmp_path):
    class Poison(nn.Module):
        def forward(self, logits, target):
            return logits.sum() * float("nan")

    module = task(patience=3)
    module.loss = Poison()
    before = weights(module).clone()
    with pytest.raises(MssegError) as caught:
        training().fit(module, LongitudinalDataModule(Patches(), epoch_steps=5), tmp_path, CPU)
    assert caught.value.exit_code == ExitCode.NUMERICAL
    torch.testing.assert_close(weights(module), before)


def test_a_missing_device_is_an_environment_error(tmp_path):
    more = torch.cuda.device_count() + 1
    data = LongitudinalDataModule(Patches(), epoch_steps=5)
    with pytest.raises(MssegError) as caught:
        training().fit(task(), data, tmp_path, Hardware(accelerator="gpu", devices=more))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_settings_below_one_are_refused_together():
    with pytest.raises(MssegError) as caught:
        training(steps=0, batch_size=-1, validate_every=2.5)
    assert {problem.field for problem in caught.value.problems} == {
        "train.steps",
        "train.batch_size",
        "train.validate_every",
    }


@pytest.mark.parametrize("hardware", [{"accelerator": "abacus"}, {"precision": "7-true"}])
def test_a_setting_lightning_does_not_know_is_a_configuration_error(tmp_path, hardware):
    data = LongitudinalDataModule(Patches(), epoch_steps=5)
    with pytest.raises(MssegError) as caught:
        training().fit(task(), data, tmp_path, Hardware(**hardware))
    assert caught.value.exit_code == ExitCode.CONFIG


def test_validation_runs_uncompiled(tmp_path):
    """Windows of another size must not be compiled anew at every validation."""
    graphs, shapes = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    class Windows:
        def __call__(self, network, subject):
            with torch.no_grad():
                shapes.append(network(torch.randn(3, 2, 6, 4, 8)).shape)
            return {"score": 0.5}

    class Network(nn.Module):  # the compiler leaves torch's own Sequential as it is
        def __init__(self):
            super().__init__()
            self.layers = network()

        def forward(self, images):
            return self.layers(images)

    module = task()
    module.network = Network()
    module.network.compile(dynamic=False, backend=backend)
    module.compiled, module.validator = True, Windows()
    data = LongitudinalDataModule(Patches(), [SimpleNamespace(id="a")], epoch_steps=2)
    training(steps=4, validate_every=2).fit(module, data, tmp_path, CPU)
    assert shapes == [(3, 1, 6, 4, 8)] * 2
    assert len(graphs) == 1


def test_the_first_step_tells_how_long_it_took(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Progress, "first_fit", True)
    caplog.set_level("INFO", "msseg_lightning")
    data = LongitudinalDataModule(Patches(), epoch_steps=5)
    training(steps=3).fit(task(), data, tmp_path, CPU)
    lines = [r.getMessage() for r in caplog.records if "first step" in r.getMessage()]
    assert len(lines) == 1
    seconds = [float(number) for number in re.findall(r"([\d.]+) s after", lines[0])]
    assert 0 <= seconds[1] <= seconds[0] < 24 * 3600, lines
    assert seconds[1] < 60, "the training began with the fit, whatever the program did before"
    assert re.search(r"first step [\d.]+ s after .* \([\d.]+ CPU s\)", lines[0])  # the benchmark's
    caplog.clear()  # a second fold did not wait for the start of the program
    training(steps=3).fit(task(), data, tmp_path / "second", CPU)
    lines = [r.getMessage() for r in caplog.records if "first step" in r.getMessage()]
    assert re.fullmatch(r"first step [\d.]+ s after the training began", lines[0])


class Scripted(nn.Module):
    """A loss of 1, 2, 3, ... that the weights do not change; NaN where asked."""

    def __init__(self, bad=()):
        super().__init__()
        self.step, self.bad = 0, bad

    def forward(self, logits, target):
        self.step += 1
        value = float("nan") if self.step in self.bad else float(self.step)
        return 0 * logits.mean() + value


@pytest.mark.parametrize("bad, expected", [((), [3.0, 8.0]), ((2, 9), [3.25, 7.75])])
def test_a_point_of_a_curve_is_the_mean_since_the_point_before(tmp_path, caplog, bad, expected):
    caplog.set_level("INFO", "msseg_lightning")
    module = task()
    module.loss = Scripted(bad)
    data = LongitudinalDataModule(Patches(), epoch_steps=5)
    training(steps=10, validate_every=25).fit(module, data, tmp_path, CPU)  # a point in 5 steps
    curve = [row for row in read_curves(tmp_path / "curves.csv") if row["name"] == "train/loss"]
    assert [row["value"] for row in curve] == expected
    lines = [record.getMessage() for record in caplog.records]
    (last,) = [line for line in lines if line.startswith("step 10 of 10")]
    assert f"train/loss {expected[-1]:.3f}" in last


def test_a_run_that_goes_on_has_the_same_curve(tmp_path):
    curves = []
    for folder, stops in ((tmp_path / "whole", ()), (tmp_path / "stopped", (3, 12))):
        for stop in stops:
            with pytest.raises(RuntimeError, match="power cut"):
                data = LongitudinalDataModule(Patches(), epoch_steps=5)
                callbacks = [StopAt(stop, die)]
                training(validate_every=25).fit(task(), data, folder, CPU, callbacks=callbacks)
        data = LongitudinalDataModule(Patches(), epoch_steps=5)
        training(validate_every=25).fit(task(), data, folder, CPU)
        curves.append([(row["step"], row["value"]) for row in read_curves(folder / "curves.csv")])
    assert curves[0] == curves[1] and len(curves[0]) >= 4


def test_channels_last_moves_layout_and_not_values():
    module = task()
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    Hardware("cpu", channels_last=True).prepare(module)
    kernel = module.network[0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)
    assert not kernel.is_contiguous()
    for name, value in module.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    images = torch.randn(1, 2, 4, 4, 4)
    flat = nn.functional.conv3d(images, before["0.weight"], before["0.bias"], padding=1)
    torch.testing.assert_close(module.network[0](images), flat)


@pytest.mark.parametrize(
    ("hardware", "devices", "exit_code"),
    [
        (Hardware("gpu"), None, ExitCode.ENVIRONMENT),
        (Hardware("cuda", devices=2), 1, ExitCode.ENVIRONMENT),
        (Hardware("mps"), None, ExitCode.ENVIRONMENT),
        (Hardware("abacus"), None, ExitCode.CONFIG),
        (Hardware("cpu", devices=2), None, None),
        (Hardware("cpu", devices=9999), None, ExitCode.ENVIRONMENT),
        (Hardware("auto", devices=9999), None, ExitCode.ENVIRONMENT),
        (Hardware("auto", devices=2), None, None),
    ],
)
def test_what_is_not_in_the_machine_is_refused(hardware, devices, exit_code, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if exit_code is None:
        hardware.require(devices)
        return
    with pytest.raises(MssegError) as caught:
        hardware.require(devices)
    assert caught.value.exit_code == exit_code


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    Hardware("gpu").require()
    Hardware("gpu", devices=2).require(devices=1)
    with pytest.raises(MssegError, match="gpu x 2"):
        Hardware("gpu", devices=2).require()


@pytest.mark.parametrize("gpu", [False, True])
def test_freed_memory_is_kept_where_the_processor_computes(gpu, monkeypatch):
    kept = []
    monkeypatch.setattr(module_of_training, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    Hardware("auto").prepare(task())
    assert kept == ([] if gpu else [True])


def test_the_compiler_knows_the_options_set_for_a_processor(monkeypatch):
    """torch refuses an option that it does not know before it compiles anything."""
    module = task()
    Hardware("cpu", compile=True).prepare(module)
    assert module.compiled
    monkeypatch.setattr(module_of_training, "REPEAT_RATHER_THAN_STORE", {"no_such_option": 8})
    with pytest.raises(RuntimeError, match="no_such_option"):
        Hardware("cpu", compile=True).prepare(module)
