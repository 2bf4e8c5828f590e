import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.train import training
from msseg_lightning.train.training import Hardware
from tests.train.test_training import task


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
        (Hardware("cpu", devices=9), None, None),
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
    monkeypatch.setattr(training, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    Hardware("auto").prepare(task())
    assert kept == ([] if gpu else [True])


def test_the_compiler_knows_the_options_set_for_a_processor(monkeypatch):
    """torch refuses an option that it does not know before it compiles anything."""
    module = task()
    Hardware("cpu", compile=True).prepare(module)
    assert module.compiled
    monkeypatch.setattr(training, "REPEAT_RATHER_THAN_STORE", {"no_such_option": 8})
    with pytest.raises(RuntimeError, match="no_such_option"):
        Hardware("cpu", compile=True).prepare(module)
