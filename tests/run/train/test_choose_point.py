from __future__ import annotations

import json

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.core.files import read_record
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.evaluate import operating_point
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.operating_point import POINT_FILE, read_point
from msseg_lightning.run.train import choose_point, run_report
from msseg_lightning.run.train.choose_point import Choice, choose_for_folds, choose_for_run
from tests.foreseen import fold_words, foreseen

CHOICE = Choice(budget=1.5, thresholds=(0.2, 0.7), smallest_mm3=(0.0,))


def folds_of(product):
    return sorted(product.parent.glob("*-fold[01]-seed0"))


def test_each_fold_has_the_point_of_the_others_and_the_whole_that_of_all(product, monkeypatch):
    asked = []

    def record(marks, *values):
        asked.append({one.patient for one in marks[None]})
        return operating_point.choose_operating_point(marks, *values)

    monkeypatch.setattr(choose_point, "choose_operating_point", record)
    monkeypatch.setattr(NetworkMethod, "predict", None)  # the maps are there
    chosen = choose_for_folds(product, CHOICE)
    held_out = [set(RunFolder(run).split()["test"]) for run in folds_of(product)]
    assert asked == [held_out[1], held_out[0], held_out[0] | held_out[1]]
    for run, words in [(folds_of(product)[0], "other folds"), (product, "all 2 folds")]:
        stored = read_point(run / "model")
        assert words in stored.chosen_on and stored == read_point(run / "model")
    point = chosen.stored.point
    # two patients without, none of them with a false lesion: -ln(0.1) / 2 = 1.15
    assert point.certified and point.upper_limit == pytest.approx(1.151, abs=1e-3)
    assert 0.6 < point.least_score < 0.9 and point.false_per_patient == 0
    nested = read_point(folds_of(product)[0] / "model").point
    assert not nested.certified and nested.patients == 1  # 2.30


def test_scores_with_the_point_stand_beside_those_of_the_own_rules(product):
    chosen = choose_for_folds(product, CHOICE)
    before, after = chosen.before["without_lesions"], chosen.after["without_lesions"]
    assert (before["clean"], after["clean"]) == (0, 2)
    lesions = chosen.after["with_lesions"]["lesions"]
    assert lesions["predicted"] == lesions["matched"] == lesions["detected"] > 0
    scores = read_record(product / "operating_point" / "scores.json")
    assert "not on these pairs" in scores["threshold"] and "too few" not in scores["protocol"]
    own, other = read_systems([str(product), str(product / "operating_point")])
    assert own.pairs == other.pairs and "at its operating point" in other.name


def test_calibrated_probabilities_are_stored(product):
    stored = choose_for_folds(product, CHOICE).stored
    known = stored.reliability
    assert known["lesions"] > known["true"] > 0
    assert known["brier_after"] is not None and known["after"]
    low, high = stored.calibration([0.6, 0.9])
    assert low < 0.6 < high < 0.9  # few lesions give no certainty


def test_lower_thresholds_find_more(product):
    # a third of the lesions has 0.4, which the own threshold of 0.5 misses
    everything = Choice(budget=5.0, population="all", thresholds=(), smallest_mm3=(0.0,))
    own = choose_for_folds(product, everything).stored.point
    lower = Choice(budget=5.0, population="all", thresholds=(0.2,), smallest_mm3=(0.0,))
    changed = choose_for_folds(product, lower)
    point = changed.stored.point
    assert own.threshold is None and point.threshold == 0.2
    assert point.sensitivity > own.sensitivity


def test_a_run_uses_its_validation_pairs(product, monkeypatch):
    run = RunFolder(folds_of(product)[0])
    split = run.split()
    predicted = []

    def noted(self, subject):
        predicted.append(subject.id)
        return foreseen(self, subject)

    monkeypatch.setattr(NetworkMethod, "predict", noted)
    choice = Choice(budget=3.0, population="all", thresholds=(), smallest_mm3=(0.0,))
    chosen = choose_for_run(run, choice)
    assert predicted == split["val"] and not set(predicted) & set(split["test"])
    assert "validation pair" in chosen.stored.chosen_on
    scores = read_record(run.path / "operating_point" / "scores.json")
    assert set(scores["cases"]) == set(split["test"])
    choose_for_run(run, choice)  # again: the maps are kept
    assert predicted == split["val"]


def test_a_run_without_validation_pairs_or_with_other_data_is_refused(product):
    run = RunFolder(folds_of(product)[0])
    split = json.loads(run.split_file.read_text())
    split.pop("checksum")
    run.split_file.write_text(json.dumps({**split, "data_hash": "0" * 16}))
    with pytest.raises(MssegError, match="data of this run have changed"):
        choose_for_run(run, CHOICE)
    run.split_file.write_text(json.dumps({**split, "val": []}))
    with pytest.raises(MssegError, match="no validation patients"):
        choose_for_run(run, CHOICE)


def test_a_system_without_maps_is_refused(product):
    (pair,) = [RunFolder(folds_of(product)[0]).split()["test"][0]]
    folder = folds_of(product)[0] / "predictions"
    (folder / f"{pair}_probability.nii.gz").unlink()
    with pytest.raises(MssegError, match="gives no probabilities"):
        choose_point.stored_prediction(folder, pair)


def test_training_again_keeps_its_scores_and_the_point(product, coarse_cohort, monkeypatch):
    """The own rules stay those of training; the model is the same with a point beside it."""
    choose_for_folds(product, CHOICE)
    (run, _) = folds_of(product)
    before = (run / "scores.json").read_bytes()
    monkeypatch.chdir(product.parents[2])
    monkeypatch.setattr(NetworkMethod, "fit", lambda *_: None)
    monkeypatch.setattr(NetworkMethod, "predict", None)
    monkeypatch.setattr(run_report, "build_report", lambda *_: None)
    assert main(["train", *fold_words(coarse_cohort), "fold=0"]) == ExitCode.OK
    assert (run / "scores.json").read_bytes() == before
    assert read_point(run / "model") is not None and (run / "model" / POINT_FILE).exists()
