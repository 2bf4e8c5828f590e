import logging
import time
from types import SimpleNamespace

import pytest
import torch

from msseg_lightning.train.curves import read_curves
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.profile import BACKGROUND_PARTS, SEQUENTIAL_PARTS, Clock, Timed
from msseg_lightning.train.training import Hardware
from tests.train.test_training import Patches, task, training, weights

WATCHED = Hardware(accelerator="cpu", precision="32-true", profile=True)


class Slow(Patches):
    """20 ms for every batch, of which the loader's parts take 5."""

    def __init__(self):
        super().__init__()
        self.augment = SimpleNamespace(fill=lambda: time.sleep(0.005))

    def iterate(self, *place):
        for batch in super().iterate(*place):
            self.augment.fill()
            time.sleep(0.015)
            yield batch


class SlowValidator:
    def __call__(self, network, subject):
        time.sleep(0.05)
        return {"score": 1.0}


def test_time_is_found_where_it_was_spent(tmp_path, caplog):
    caplog.set_level(logging.INFO, "msseg_lightning")
    module = task()
    module.validator = SlowValidator()
    data = LongitudinalDataModule(
        Slow(), [SimpleNamespace(id="a"), SimpleNamespace(id="b")], epoch_steps=5
    )
    training(steps=10).fit(module, data, tmp_path, WATCHED)
    rows = {row["name"]: row["value"] for row in read_curves(tmp_path / "curves.csv")}
    part = {
        name: rows[f"profile/{name.replace(' ', '_')}_s"]
        for name in (*SEQUENTIAL_PARTS, *BACKGROUND_PARTS)
    }
    assert 0.2 <= part["wait for a batch"] < 0.6  # 10 batches x 20 ms
    assert 0.05 <= part["read and augment"] < 0.3  # 10 x 5 ms, within the wait
    assert 0.2 <= part["validate"] < 1.0  # 2 validations x 2 pairs x 50 ms
    assert part["place patches"] == 0
    for name in ("forward and loss", "backward", "clip and update", "checkpoint", "log and track"):
        assert part[name] > 0, name
    table = next(r.getMessage() for r in caplog.records if "where the time went" in r.getMessage())
    assert all(name in table for name in (*SEQUENTIAL_PARTS, "other", *BACKGROUND_PARTS))


def test_watching_changes_nothing(tmp_path):
    found = []
    for name, hardware in (("plain", Hardware("cpu", precision="32-true")), ("watched", WATCHED)):
        module = task()
        data = LongitudinalDataModule(Patches(), epoch_steps=5)
        training(steps=6).fit(module, data, tmp_path / name, hardware)
        found.append(weights(module))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_timed_object_behaves_as_the_one_inside():
    clock = Clock()
    inner = SimpleNamespace(fill=lambda value: value + 1, size=3)
    timed = Timed(inner, clock, {"fill": "part"})
    assert (timed.fill(1), timed.size) == (2, 3)
    assert 0 < clock.seconds["part"] < 1
    with pytest.raises(AttributeError):
        timed.absent  # noqa: B018
