from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from msseg_lightning.core.problem import MssegError
from msseg_lightning.evaluate.calibration import (
    Calibration,
    brier_score,
    cross_fitted,
    reliability,
)


def overconfident(lesions, seed=0):
    """Scores whose log odds are three times the true ones, less 1."""
    random = np.random.default_rng(seed)
    odds = random.normal(0, 1.2, lesions)
    return special.expit(3 * odds - 1), random.random(lesions) < special.expit(odds)


def test_temperature_is_recovered():
    calibration = Calibration.fit(*overconfident(20000))
    assert 1 / calibration.slope == pytest.approx(3, rel=0.05)
    assert calibration.offset == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_probabilities_of_unseen_lesions_are_right(kind):
    calibration = Calibration.fit(*overconfident(3000), kind)
    scores, right = overconfident(5000, 1)
    assert brier_score(calibration(scores), right) < brier_score(scores, right) - 0.02
    for one in reliability(calibration(scores), right):
        assert one.right == pytest.approx(one.probability, abs=0.06)
    same = Calibration.from_dict(calibration.as_dict())
    assert same == calibration and (same(scores) == calibration(scores)).all()


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_probabilities_never_fall(kind):
    scores, right = overconfident(200)
    calibration = Calibration.fit(scores, ~right, kind)  # worse than chance
    assert (np.diff(calibration(np.linspace(0, 1, 50))) >= -1e-12).all()


def test_isotonic_by_hand():
    calibration = Calibration.fit([0.1, 0.2, 0.3, 0.4, 0.4], [0, 1, 0, 1, 1], "isotonic")
    assert calibration.probabilities == (0, 0.5, 0.5, 1)
    assert calibration([0.15, 0.25, 0.9]) == pytest.approx([0.25, 0.5, 1])


def test_few_lesions_give_no_certainty():
    calibration = Calibration.fit([1.0, 1.0], [True, True])
    assert calibration([1.0])[0] == pytest.approx(0.75, abs=0.01)  # (2 + 1) / (2 + 2)
    with pytest.raises(MssegError, match="no lesion was predicted"):
        Calibration.fit([], [])


def test_no_lesion_is_calibrated_by_its_own_patient():
    scores, right = overconfident(40)
    patients = [f"p{number % 8}" for number in range(40)]
    before = cross_fitted(scores, right, patients)
    own = np.array([name == "p0" for name in patients])
    changed = np.where(own, ~right, right)
    after = cross_fitted(scores, changed, patients)
    assert (after[own] == before[own]).all() and (after[~own] != before[~own]).any()
    alone = cross_fitted(scores[:2], right[:2], ["a", "a"])
    assert (alone == scores[:2]).all()


def test_reliability_and_brier_by_hand():
    probabilities = np.array([0.1, 0.1, 0.9, 0.9])
    right = np.array([False, True, True, True])
    assert brier_score(probabilities, right) == pytest.approx((0.01 + 0.81 + 0.02) / 4)
    low, high = reliability(probabilities, right, bins=2)
    assert (low.lesions, low.right, high.right) == (2, 0.5, 1)
    assert (low.probability, high.probability) == pytest.approx((0.1, 0.9))
    assert reliability(np.zeros(0), np.zeros(0, bool)) == ()
    assert brier_score(np.zeros(0), np.zeros(0, bool)) is None
    assert len(reliability(np.full(3, 0.7), np.ones(3, bool))) == 1
