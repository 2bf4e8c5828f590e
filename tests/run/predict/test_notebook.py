"""Functions for notebooks, and the notebooks of the documentation, executed."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import lightning as L
import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import msseg_lightning as ms
from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.predict.notebook import PairDataModule
from tests.run.predict.test_model_zip import save

NOTEBOOKS = Path(__file__).parents[3] / "docs" / "notebooks"
COARSE = ["preprocess.steps.resample.spacing_mm=6.0"]


@pytest.fixture
def pairs(coarse_cohort):
    return {pair.id: pair for pair in ms.load_pairs("msseg2", coarse_cohort)}


def test_a_network_of_one_s_own_is_trained_validated_and_scored(pairs, tmp_path):
    network = nn.Conv3d(2, 1, 3, padding=1)
    data = ms.data_module(
        [pairs["001"]],
        [pairs["002"]],
        patch_size=(16, 8, 8),
        epoch_steps=2,
        cache=tmp_path / "cache",
        settings=COARSE,
    )
    assert isinstance(data, ms.LongitudinalDataModule) and isinstance(data, PairDataModule)
    task = ms.Task(
        network,
        ms.SoftDice(squared_denominator=False, smooth=1.0),
        partial(torch.optim.SGD, lr=0.1),
    )
    before = network.weight.detach().clone()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(task, data)
    assert not network.weight.equal(before)
    assert "val/score" in trainer.callback_metrics
    found = ms.predict(network, pairs["003"], data)
    assert found.probability.shape == found.mask.shape == found.native.grid.shape
    np.testing.assert_array_equal(found.mask, found.probability > 0.5)
    score = ms.score(found, pairs["003"])
    same = ms.score(found.mask, found.mask, (6.0, 6.0, 6.0))
    assert len(score.reference_lesions) > 0
    assert same.official["Dice"] == 1.0 or not found.mask.any()
    with pytest.raises(ValueError, match="spacing_mm"):
        ms.score(found.mask, found.mask)


def test_pairs_are_split_by_patient(pairs):
    split = ms.split_pairs(list(pairs.values()), fold=1, folds=2)
    assert sorted([*split.train, *split.val, *split.test]) == sorted(pairs)
    with pytest.raises(MssegError):
        ms.load_pairs("msseg2", "/nowhere")


def test_a_trained_system_predicts(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = save(tmp_path / "model", "bsi_subtraction")
    found = ms.load_system(model, ["data.workers=1"]).predict(pairs["003"])
    assert found.mask.shape == found.native.grid.shape


def test_the_import_is_fast_and_names_are_the_real_ones():
    code = "import sys, msseg_lightning; print('torch' in sys.modules, len(sys.modules))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[0] == "False" and int(said[1]) < 150
    for name in ms.__all__:
        assert getattr(ms, name) is not None
    assert set(ms.__all__) <= set(dir(ms))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ms.nothing


@pytest.mark.parametrize("name", ["own_network", "two_systems"])
def test_a_notebook_runs_from_the_first_cell_to_the_last(
    name, coarse_cohort, tmp_path, monkeypatch, capsys
):
    """In this process, at tiny size; their outputs are not stored."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSSEG_COHORT", str(coarse_cohort))
    monkeypatch.setenv("MSSEG_STEPS", "4")
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    space: dict[str, object] = {"__name__": "__main__"}
    for cell in content["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}:{cell['id']}", "exec"), space)
    said = capsys.readouterr().out
    if name == "own_network":
        assert "Dice" in said and "mm3" in said
        assert sum(len(one["source"]) for one in content["cells"][5:6]) <= 25
    else:
        assert "bsi_subtraction" in said and "larger" in said
