"""Scores of candidates are made, calibrated and cut on patients left out."""

import numpy as np
import pytest

from msseg_lightning.method.boosting import Boosting
from msseg_lightning.method.lesion_judge import (
    LabelledCandidates,
    LesionJudge,
    value_of_cut,
)

NAMES = ("bright", "noise")
BOOSTING = Boosting(rounds=15, leaves=3, least_rows=3, least_weight=0.01, learning_rate=0.3)


def pairs(count=8, each=12, memory=False):
    """Candidates of which the first column tells, in half of all cases, whether they are true.

    With ``memory`` the second column is the number of the pair, by which alone the candidates of
    the first patient could be told from others: all of them are true.
    """
    draw = np.random.default_rng(3)
    found = []
    for number in range(count):
        true = draw.random(each) < 0.4
        bright = np.where(draw.random(each) < 0.5, true, draw.random(each) < 0.4)
        if memory and number == 0:
            true[:] = True
        features = np.stack([bright + draw.normal(0, 0.1, each), np.full(each, number)], axis=1)
        met = np.stack([np.flatnonzero(true), np.arange(true.sum())], axis=1)
        found.append(
            LabelledCandidates(
                f"p{number}", features.astype(np.float32), true, met, int(true.sum()) + 1
            )
        )
    return found


LEFT_OUT = [frozenset({"p0", "p1"}), frozenset({"p2", "p3"}), frozenset({"p4", "p5", "p6", "p7"})]


def test_scores_are_calibrated_on_patients_left_out():
    judge, given = LesionJudge(BOOSTING), pairs(each=120)
    scores = judge.fit(given, LEFT_OUT, NAMES, seed=0)
    all_scores = np.concatenate(scores)
    true = np.concatenate([pair.true for pair in given])
    # what the first column tells is all there is to know
    for low, high in ((0, 0.5), (0.5, 1)):
        part = (all_scores >= low) & (all_scores < high)
        assert all_scores[part].mean() == pytest.approx(true[part].mean(), abs=0.05)
    assert true[all_scores > 0.5].mean() > 0.55 > 0.35 > true[all_scores < 0.5].mean()
    assert 0 < judge.cut < 1


def test_what_only_memory_could_tell_is_not_in_the_scores_out_of_fold():
    judge, given = LesionJudge(BOOSTING), pairs(memory=True)
    scores = judge.fit(given, LEFT_OUT, NAMES, seed=0)
    remembered = judge(given[0].features)
    assert remembered.mean() > scores[0].mean() + 0.1


def test_saved_and_loaded_it_says_the_same(tmp_path):
    judge, given = LesionJudge(BOOSTING), pairs()
    judge.fit(given, LEFT_OUT, NAMES, seed=0)
    judge.save(tmp_path, "x", NAMES)
    other = LesionJudge(BOOSTING)
    other.load(tmp_path, NAMES)
    assert other.record() == judge.record() and other.calibration.slope != 1
    np.testing.assert_array_equal(other(given[0].features), judge(given[0].features))
    assert other(np.zeros((0, 2), np.float32)).shape == (0,)


def test_the_value_of_a_cut_by_hand():
    """Two of three lesions found by three marks of which two are right: F1 2/3; a clean pair."""
    one = LabelledCandidates(
        "a",
        np.zeros((4, 1), np.float32),
        np.array([True, True, False, False]),
        np.array([[0, 0], [1, 2], [2, 1]]),  # a false one touches lesion 1: it is not found
        3,
    )
    clean = LabelledCandidates(
        "b", np.zeros((1, 1), np.float32), np.array([False]), np.zeros((0, 2), np.int64), 0
    )
    scores = [np.array([0.9, 0.8, 0.7, 0.1]), np.array([0.5])]
    assert value_of_cut([one], scores[:1], 0.6) == pytest.approx(2 / 3)
    assert value_of_cut([one], scores[:1], 0.75) == pytest.approx(0.8)
    assert value_of_cut([one], scores[:1], 0.95) == 0
    assert value_of_cut([one, clean], scores, 0.6) == pytest.approx((2 / 3 + 1) / 2)
    assert value_of_cut([one, clean], scores, 0.4) == pytest.approx(1 / 3)
