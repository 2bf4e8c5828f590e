"""A network method refuses what it cannot learn from, and saves what it learnt."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.build import build_method
from msseg_lightning.run.compose import compose_config


@pytest.fixture
def built(tiny_cohort, tmp_path):
    words = [f"read.root={tiny_cohort}", "size=tiny", f"paths.cache={tmp_path}", "data.workers=1"]
    return build_method(compose_config(words, "pre_unet"))


@pytest.fixture
def subjects(tiny_cohort):
    return {subject.id: subject for subject in Msseg2(tiny_cohort).subjects()}


def test_it_follows_the_protocol(built):
    assert isinstance(built, Method)


def test_training_pairs_without_any_lesion_are_refused(built, subjects, tmp_path):
    with pytest.raises(MssegError) as caught:
        built.fit([subjects["001"]], [], tmp_path / "fit")
    assert caught.value.exit_code == ExitCode.DATA
    assert "no training pair has a single new lesion" in str(caught.value)


def test_what_is_saved_predicts_the_same_when_loaded(built, subjects, tmp_path):
    first = built.predict(subjects["003"])
    built.save(tmp_path / "model")
    with torch.no_grad():
        for parameter in built.task.network.parameters():
            parameter.zero_()
    built.load(tmp_path / "model")
    again = built.predict(subjects["003"])
    np.testing.assert_array_equal(first.probability, again.probability)
    assert first.mask.shape == first.native.grid.shape
    assert set(np.unique(first.mask)) <= {0, 1}
    np.testing.assert_array_equal(first.mask > 0, first.probability > 0.5)


def test_rules_are_told_where_the_brain_is(built, subjects):
    inside = built.predict(subjects["003"]).inside
    brain = np.asarray(nib.load(subjects["003"].masks["brain"]).dataobj) > 0
    assert 2 * (inside & brain).sum() > 0.95 * (inside.sum() + brain.sum())
