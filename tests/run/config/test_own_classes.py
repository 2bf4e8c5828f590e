"""Properties of classes are read from their source."""

from __future__ import annotations

import subprocess
import sys

import pytest

from msseg_lightning.run.config.own_classes import own_class


@pytest.mark.parametrize(
    "target",
    [
        "msseg_lightning.read.load.logging.FileHandler",  # imported by the module, a module itself
        "msseg_lightning.read.msseg2.LongitudinalSubject",  # imported from another of our modules
        "msseg_lightning.loss.overlap.SoftDice.NestedKey",
        "msseg_lightning.loss.overlap.softdice",
        "msseg_lightning.loss.Overlap",
        "msseg_lightning.loss..overlap.SoftDice",
        "msseg_lightning.loss.overlap.Soft\u0130ce",
        "msseg_lightning.loss.missing.SoftDice",
        "msseg_lightning.loss.overlap.SoftDice\n",
        "torch.nn.Module",
    ],
)
def test_what_is_not_defined_there_is_no_class_of_ours(target):
    assert own_class(target) is None


def test_methods_and_paths_are_those_of_the_bases_too():
    mining = own_class("msseg_lightning.train.mining.MomentumMining")
    assert "msseg_lightning.train.task.Task" in mining.ancestors
    assert "training_step" in mining.methods and mining.step == "train" and not mining.takes_path
    drops = own_class("msseg_lightning.train.schedule.DropAtShares")
    assert drops.ancestors[1] == "torch.optim.lr_scheduler.MultiStepLR"
    assert own_class("msseg_lightning.train.curves.CurveFile").takes_path
    assert not own_class("msseg_lightning.read.reader.Reader").buildable  # a protocol


def test_nothing_is_imported_to_find_out():
    code = (
        "import sys; from msseg_lightning.run.config.own_classes import own_class; "
        "assert own_class('msseg_lightning.train.task.Task'); "
        "sys.exit('msseg_lightning.train.task' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
