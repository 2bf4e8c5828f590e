"""Early stopping of boosters on validation patients, and stratified folds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from msseg_lightning.evaluate.modified_dice import modified_dice
from msseg_lightning.method.booster_files import check_text
from msseg_lightning.method.boosting import Boosting, Table, nested_folds

NAMES = ("a", "b", "c")


def table(seed, rows=1500):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, 3)).astype(np.float32)
    target = features[:, 0] + generator.normal(size=rows) > 1.5
    return Table(features, target, np.ones(rows, np.float32))


def test_growing_stops_where_the_watched_rows_stop_gaining():
    steps = iter(range(500))
    grown = Boosting(rounds=500, patience=8, least_rows=5).fit(table(0), table(1), NAMES, 0, steps)
    assert grown.best_iteration < 500
    assert len(grown.curve) == grown.best_iteration + 8
    assert grown.curve[grown.best_iteration - 1] == max(grown.curve)
    assert next(steps) == len(grown.curve)  # the bar moved once per round
    assert grown.rows == 1500 and grown.lesion_rows == table(0).target.sum()
    check_text(grown.text, NAMES)
    assert grown.text.count("Tree=") == grown.best_iteration


def test_the_text_gives_the_score_the_curve_promises():
    import lightgbm

    watch = table(1)
    grown = Boosting(rounds=40, patience=5).fit(table(0), watch, NAMES, 0, iter(()))
    answer = lightgbm.Booster(model_str=grown.text).predict(watch.features)
    assert modified_dice(answer, watch.target) == pytest.approx(max(grown.curve))
    again = Boosting(rounds=40, patience=5).fit(table(0), watch, NAMES, 0, iter(()))
    assert again.text == grown.text


def test_a_weight_counts_as_repetition():
    rows, watch = table(0, 400), table(1)
    weight = np.random.default_rng(2).integers(1, 4, 400)
    settings = Boosting(rounds=3, patience=3, leaves=4, least_rows=1)
    heavy = Table(rows.features, rows.target, weight.astype(np.float32))
    many = Table(
        np.repeat(rows.features, weight, 0),
        np.repeat(rows.target, weight),
        np.ones(weight.sum(), np.float32),
    )
    first, second = (settings.fit(each, watch, NAMES, 0, iter(())) for each in (heavy, many))
    np.testing.assert_allclose(first.curve, second.curve, rtol=1e-2)
    assert first.rows == 400 and second.rows == weight.sum()


def test_without_validation_all_rounds_are_fitted_on_the_rows_alone():
    rows = table(0, 400)
    settings = Boosting(rounds=7, leaves=4, feature_share=0.5)
    found = settings.fit(rows, None, NAMES, 0)
    assert found.curve == () and found.best_iteration == 7 and found.text.count("Tree=") == 7
    assert found.rows == 400 and found.lesion_rows == rows.target.sum()
    whole = dataclasses.replace(settings, feature_share=1.0).fit(rows, None, NAMES, 0)
    assert whole.text != found.text


def test_folds_are_disjoint_complete_and_share_the_lesions_out():
    positive = {f"p{number}": number % 3 == 0 for number in range(17)}  # 6 of 17
    folds = nested_folds(positive, 5, seed=0)
    assert sorted(patient for fold in folds for patient in fold) == sorted(positive)
    assert sorted(len(fold) for fold in folds) == [3, 3, 3, 4, 4]
    assert sorted(sum(positive[patient] for patient in fold) for fold in folds) == [1, 1, 1, 1, 2]
    assert nested_folds(dict(reversed(positive.items())), 5, 0) == folds
    assert nested_folds(positive, 5, seed=1) != folds


def test_too_few_patients_with_lesions_make_fewer_folds(caplog):
    positive = {"a": True, "b": True, "c": False, "d": False}
    assert len(nested_folds(positive, 5, 0)) == 2
    assert "allow 2 nested folds" in caplog.text
    assert nested_folds({"a": True, "b": False}, 5, 0) == [frozenset()]


@pytest.mark.parametrize("wrong", [{"folds": 0}, {"rounds": 0}, {"patience": 0}, {"leaves": 1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        Boosting(**wrong)
