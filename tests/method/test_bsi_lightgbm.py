"""S01 from prepared pairs to masks: nested folds, leaving one out, resuming, saving."""

from __future__ import annotations

import json

import numpy as np
import pytest

from msseg_lightning.core.method import Method
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.method.boosting import Boosting
from msseg_lightning.method.bsi_lightgbm import FEATURES, BsiLightgbm, z_score
from msseg_lightning.method.bsi_subtraction import BsiRule
from msseg_lightning.postprocess.size import MinAxis, MinSize
from msseg_lightning.postprocess.threshold import Threshold
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.sample.voxel_table import VoxelRows
from msseg_lightning.split.leave_one_out import LeaveOneOut

SHAPE = (20, 18, 16)
BOOSTING = Boosting(rounds=60, patience=5, learning_rate=0.3, leaves=7)
RULES = (Threshold(0.2), MinAxis(2), MinSize(voxels=27))


def write_pair(folder, number, lesions):
    """Noise in a box of brain; some 4^3 blocks are new, one was bright at both visits."""
    generator = np.random.default_rng(number)
    brain = np.zeros(SHAPE, bool)
    brain[2:18, 2:16, 2:14] = True
    baseline = np.where(brain, 100, 0) + generator.normal(0, 2, SHAPE)
    followup = baseline + generator.normal(0, 2, SHAPE)
    old = (slice(12, 16), slice(10, 14), slice(8, 12))
    baseline[old] += 60
    followup[old] += 60
    target = np.zeros(SHAPE, bool)
    for place in ((4, 4, 4), (4, 10, 8), (11, 4, 5))[:lesions]:
        target[tuple(slice(start, start + 4) for start in place)] = True
    baseline[target], followup[target] = 99, 150
    name = f"p{number}"
    volumes = {
        BASELINE: Volume(baseline.astype(np.float32), np.eye(4)),
        FOLLOWUP: Volume(followup.astype(np.float32), np.eye(4)),
        BRAIN: Volume(brain, np.eye(4), "mask"),
        "ventricles": Volume(np.zeros(SHAPE, bool), np.eye(4), "mask"),
        TARGET: Volume(target, np.eye(4), "mask"),
    }
    flipped = np.diag([-1.0, 1, 1, 1])  # the native scan runs from right to left
    flipped[0, 3] = SHAPE[0] - 1
    subject = LongitudinalSubject(name, name, {})
    native = Native(Grid(SHAPE, flipped), b"")
    return PreparedSubject.write(LoadedSubject(subject, volumes, native), folder / name)


class Prepared:
    """Stands for the cache, and remembers who was asked for."""

    def __init__(self, folder):
        self.pairs = {}
        for number, lesions in enumerate((1, 2, 3, 0, 2, 1)):
            pair = write_pair(folder, number, lesions)
            self.pairs[pair.id] = pair
        self.asked = []

    def prepare(self, subjects):
        self.asked += [subject.id for subject in subjects]
        return [self.pairs[subject.id] for subject in subjects]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def subjects(pairs):
    return [LongitudinalSubject(name, name, {}) for name in pairs.pairs]


def build(pairs, **changes):
    settings = {"boosting": BOOSTING, "name": "bsi_lightgbm", "postprocess": RULES, **changes}
    return BsiLightgbm(pairs, **settings)


@pytest.fixture(scope="module")
def fitted(pairs, subjects, tmp_path_factory):
    """All but the first pair, and where the state lies."""
    folder = tmp_path_factory.mktemp("fit")
    method = build(pairs)
    method.fit(subjects[1:4], subjects[4:], folder)
    return method, folder


def test_new_lesions_are_found_on_the_native_grid_and_old_ones_are_not(fitted, pairs, subjects):
    method, _ = fitted
    assert isinstance(method, Method)
    prediction = method.predict(subjects[0])
    assert list(prediction.steps) == ["difference", "inclusion", "candidates"]
    kinds = [data.dtype for data in prediction.steps.values()]
    assert kinds == [np.float32, np.uint8, np.uint8]
    assert prediction.steps["candidates"].any()
    assert not (prediction.steps["candidates"] & ~prediction.steps["inclusion"]).any()
    expected = pairs.pairs["p0"].mask(TARGET)[::-1]
    assert prediction.mask.dtype == np.uint8 and prediction.probability.dtype == np.float32
    np.testing.assert_array_equal(prediction.mask > 0, expected)
    assert prediction.inside[::-1][5, 5, 5] and not prediction.inside[0, 0, 0]
    assert prediction.probability[~prediction.inside].max() == 0
    assert prediction.probability[expected].min() > 0.5


def test_no_lesions_no_mask(fitted, subjects):
    assert not fitted[0].predict(subjects[3]).mask.any()


def test_candidates_only_asks_about_nothing_else(pairs, subjects, tmp_path):
    method = build(pairs, rows=VoxelRows(candidates_only=True))
    method.fit(subjects[1:], [], tmp_path)
    prediction = method.predict(subjects[0])
    candidates = BsiRule().subtract(pairs.pairs["p0"]).candidates[::-1]
    assert prediction.mask.any() and not (prediction.probability[~candidates] > 0).any()


def test_leaving_one_out_makes_five_boosters_each_that_never_saw_the_one(pairs, subjects, tmp_path):
    """A full run: as many fits as patients, five nested folds in each, all stopped early."""
    has_lesions = {pair.id: bool(pair.mask(TARGET).any()) for pair in pairs.pairs.values()}
    by_id = {subject.id: subject for subject in subjects}
    boosters = 0
    for fold in range(len(subjects)):
        split = LeaveOneOut().split(subjects, fold, has_lesions)
        (left_out,) = split.test
        pairs.asked.clear()
        method, folder = build(pairs), tmp_path / left_out
        method.fit(
            [by_id[name] for name in split.train], [by_id[name] for name in split.val], folder
        )
        others = set(by_id) - {left_out}
        assert set(pairs.asked) == others
        records = [json.loads(file.read_text()) for file in sorted(folder.glob("fold*.json"))]
        for record in records:
            assert record["best_iteration"] < BOOSTING.rounds
            assert record["best_iteration"] == len(record["curve"]) - BOOSTING.patience
            assert set(record["fitted_on"]) | set(record["watched"]) == others
            assert not set(record["fitted_on"]) & set(record["watched"])
            lesions = sum(pairs.pairs[name].mask(TARGET).sum() for name in record["fitted_on"])
            assert record["lesion_rows"] == lesions and record["rows"] > lesions
        assert sorted(name for record in records for name in record["watched"]) == sorted(others)
        # five patients have new lesions: one left out leaves four, and so four nested folds
        assert len(records) == len(method.texts) == (5 if left_out == "p3" else 4)
        boosters += len(records)
    assert boosters == 5 * 4 + 5


def test_a_finished_booster_is_not_fitted_again(pairs, subjects, tmp_path, monkeypatch):
    grow, grown = Boosting.fit, []

    def counted(self, fit, watch, *rest):
        if len(grown) == 2 and not (tmp_path / "go").exists():
            raise KeyboardInterrupt
        grown.append(len(watch.target))
        return grow(self, fit, watch, *rest)

    monkeypatch.setattr(Boosting, "fit", counted)
    folder = tmp_path / "fit"
    with pytest.raises(KeyboardInterrupt):
        build(pairs).fit(subjects[:5], [], folder)
    kept = {file.name: file.read_bytes() for file in folder.glob("fold*")}
    assert sorted(kept) == ["fold0.json", "fold0.txt", "fold1.json", "fold1.txt"]
    (tmp_path / "go").touch()
    resumed = build(pairs)
    resumed.fit(subjects[:5], [], folder)
    assert len(grown) == 4  # two before, two after
    assert all((folder / name).read_bytes() == content for name, content in kept.items())
    whole = build(pairs)
    whole.fit(subjects[:5], [], tmp_path / "whole")
    assert whole.texts == resumed.texts
    grown.clear()
    build(pairs).fit(subjects[:5], [], folder)
    assert not grown
    (folder / "fold1.txt").write_text("torn")  # a damaged file, other settings, other pairs
    build(pairs).fit(subjects[:5], [], folder)
    assert len(grown) == 1
    build(pairs, rows=VoxelRows(0.5)).fit(subjects[:5], [], folder)
    assert len(grown) == 5


def test_curves_are_kept_for_the_report(fitted):
    lines = (fitted[1] / "curves.csv").read_text().splitlines()
    assert lines[0] == "step,name,value"
    names = {line.split(",")[1] for line in lines[1:]}
    assert names == {f"val/modified_dice_fold{number}" for number in range(4)}


def test_what_is_saved_predicts_the_same_when_loaded(fitted, pairs, subjects, tmp_path):
    method, _ = fitted
    first = method.predict(subjects[0])
    method.save(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["system"] == "bsi_lightgbm" and card["features"] == list(FEATURES)
    everything = "".join(file.read_text() for file in tmp_path.iterdir())
    assert not any(f'"{name}"' in everything for name in pairs.pairs)  # no training pair is named
    other = build(pairs)
    with pytest.raises(MssegError, match="no boosters") as caught:
        other.predict(subjects[0])
    assert caught.value.exit_code == ExitCode.MODEL
    other.load(tmp_path)
    np.testing.assert_array_equal(other.predict(subjects[0]).probability, first.probability)


def test_the_map_is_the_mean_of_the_boosters(fitted, pairs, subjects):
    method, _ = fitted
    each = []
    for text in method.texts:
        alone = build(pairs)
        alone._take([text])
        each.append(alone.predict(subjects[1]).probability)
    mean = method.predict(subjects[1]).probability
    assert np.ptp(each, axis=0).max() > 0
    np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-6)


def test_pairs_that_cannot_teach_are_refused(pairs, subjects, tmp_path):
    with pytest.raises(MssegError, match="single new lesion"):
        build(pairs).fit([subjects[3]], [], tmp_path)
    bare = Prepared(tmp_path / "other")
    del bare.pairs["p1"].layers[TARGET]
    with pytest.raises(MssegError, match="without a reference mask: p1"):
        build(bare).fit(subjects[:2], [], tmp_path)


def test_one_patient_with_lesions_is_enough_to_run(pairs, subjects, tmp_path):
    method = build(pairs)
    method.fit([subjects[0], subjects[3]], [], tmp_path)
    assert len(method.texts) == 1


def test_z_score_is_that_of_the_brain():
    image = np.array([0, 1, 3, 5], np.float32)
    brain = np.array([False, True, True, True])
    # mean 3, deviation sqrt(8 / 3)
    np.testing.assert_allclose(z_score(image, brain)[brain], np.array([-2, 0, 2]) / (8 / 3) ** 0.5)
    assert not z_score(image, np.zeros(4, bool)).any()
    assert np.isfinite(z_score(np.ones(4, np.float32), brain)).all()


@pytest.fixture(scope="module")
def config():
    return compose_config(["read.root=none"], "bsi_lightgbm")


def test_the_rules_of_the_experiment_keep_27_voxels_and_drop_26(config):
    probability = np.zeros((16, 16, 16), np.float32)
    probability[1:4, 1:4, 1:4] = 0.21
    probability[8:11, 8:11, 8:11] = 0.21
    probability[8, 8, 8] = 0.2  # exactly the threshold: 26 voxels are left
    probability[1:15, 13, 1:3] = 0.9  # 28 voxels, but a sheet one voxel thick
    rules = [instantiate(rule) for rule in config["postprocess"]["rules"].values()]
    prediction = Prediction(
        "p",
        np.zeros((16, 16, 16), np.uint8),
        Native(Grid((16, 16, 16), np.eye(4)), b""),
        probability,
    )
    for rule in rules:
        prediction = rule(prediction)
    expected = np.zeros((16, 16, 16), np.uint8)
    expected[1:4, 1:4, 1:4] = 1
    np.testing.assert_array_equal(prediction.mask, expected)


def test_the_numbers_of_the_card_are_in_the_configuration(config):
    as_paper = compose_config(["read.root=none", "split=leave_one_out"], "bsi_lightgbm")
    assert as_paper["split"]["_target_"].endswith("LeaveOneOut")
    bias = config["preprocess"]["steps"]["bias"]
    assert (bias["iterations"], bias["convergence"], bias["fwhm"]) == ([1000], 1e-4, 0.05)
    boosting, rule = config["method"]["boosting"], config["method"]["rule"]
    assert (boosting["folds"], boosting["patience"]) == (5, 50)
    assert (rule["brain_erosions"], rule["ventricle_erosions"], rule["larger_than"]) == (1, 2, 5)
    assert len(FEATURES) == 21
