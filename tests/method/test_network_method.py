"""A network method refuses what it cannot learn from, and saves what it learnt."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch

from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.method.network_method import Channels, NetworkMethod
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.train.task import WholeVolumeValidator


@pytest.fixture
def built(tiny_cohort, tmp_path):
    words = [f"read.root={tiny_cohort}", "size=tiny", f"paths.cache={tmp_path}", "data.workers=1"]
    return build_method(compose_config(words, "pre_unet"))


@pytest.fixture
def subjects(tiny_cohort):
    return {subject.id: subject for subject in Msseg2(tiny_cohort).subjects()}


def test_it_follows_the_protocol(built):
    assert isinstance(built, Method) and isinstance(built, NetworkMethod)


def test_the_mask_that_is_predicted_comes_first():
    assert Channels(("a",), "lesions", ("rater2", "rater1")).targets == (
        "lesions",
        "rater2",
        "rater1",
    )
    assert Channels(("a",), None).targets == ()


def test_training_pairs_without_any_lesion_are_refused(built, subjects, tmp_path):
    with pytest.raises(MssegError) as caught:
        built.fit([subjects["001"]], [], tmp_path / "fit")
    assert caught.value.exit_code == ExitCode.DATA
    assert "no training pair has a single new lesion" in str(caught.value)
    built.needs_lesions = False
    built.fit([subjects["001"]], [], tmp_path / "fit")


def test_a_network_that_asks_is_told_the_size_of_the_pair_s_voxels(built, subjects):
    told = []
    built.task.network.on_grid = lambda spacing: told.append(spacing) or built.task.network
    built.predict(subjects["003"])
    assert told == [pytest.approx((3.0, 3.0, 3.0))]


def test_hardware_that_is_not_here_is_refused_before_a_pair_is_prepared(
    built, subjects, tmp_path, monkeypatch
):
    """Also at prediction, which would else go on in silence on the processor."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    built.hardware = dataclasses.replace(built.hardware, accelerator="gpu")
    for action in (
        lambda: built.fit([subjects["003"]], [], tmp_path / "fit"),
        lambda: built.predict(subjects["003"]),
    ):
        with pytest.raises(MssegError) as caught:
            action()
        assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert not any(tmp_path.rglob("*"))


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


class AnswersIfTold:
    """Rule that is sure of every voxel once it is told their size, and fails before."""

    level = "probability"

    def __init__(self, spacing_mm=None):
        self.spacing_mm = spacing_mm

    def on_grid(self, spacing_mm):
        return AnswersIfTold(spacing_mm)

    def __call__(self, network, images, inside):
        return torch.full((1, *inside.shape), float(self.spacing_mm == (3.0, 3.0, 3.0)))


def test_a_rule_that_depends_on_the_size_of_voxels_is_told_it(built, subjects):
    found = built.predict(subjects["003"], AnswersIfTold())
    assert found.probability.max() == pytest.approx(1.0)


@pytest.mark.parametrize("level", ["logit", "probability"])
def test_nothing_is_found_in_images_that_are_zero_everywhere(built, subjects, tmp_path, level):
    """The difference of two equal visits is such an image; the network is not asked."""

    class Zero:
        def add(self, prepared):
            zeros = np.zeros(prepared.grid.shape, np.float32)
            return prepared.with_image("zero", zeros, tmp_path / prepared.id)

    def unasked(*arguments):
        raise AssertionError

    unasked.level = level
    built.derived = (Zero(),)
    built.channels = dataclasses.replace(built.channels, images=("zero",))
    built.infer = unasked
    answer = built.predict(subjects["003"])
    assert not answer.mask.any() and answer.probability.max() < 1e-6

    pair = Zero().add(built.cache.prepare([subjects["003"]])[0])
    score = WholeVolumeValidator(
        unasked, level, lambda found, *_: {"dice": float(found.any())}, ["zero"], "new_lesions"
    )
    assert score(built.task.network, pair)["dice"] == 0.0


def test_several_masks_are_learned_at_once(tiny_cohort, subjects, tmp_path):
    """Consensus and raters come as channels, in the order they are named; one that is missing is
    refused by its name."""
    raters = [f"new_lesions_rater{number}" for number in (2, 1)]
    words = [f"read.root={tiny_cohort}", "size=tiny", f"paths.cache={tmp_path}", "data.workers=1"]
    words += [f"channels.further_targets=[{','.join(raters)}]"]
    method = build_method(compose_config(words, "pre_unet"))
    assert method.channels.targets == ("new_lesions", *raters)
    pair = method.cache.prepare([subjects["002"]])[0]
    batch = method.patches([pair]).batch(0)
    assert batch.target.shape[1] == 3
    pair.layers.pop(raters[1])
    with pytest.raises(MssegError) as caught:
        method._require_masks([pair], raters[1])
    assert caught.value.problems[0].field == raters[1]
