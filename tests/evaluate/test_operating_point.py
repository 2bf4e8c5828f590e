from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from msseg_lightning.core.problem import MssegError
from msseg_lightning.evaluate import operating_point
from msseg_lightning.evaluate.operating_point import (
    Marks,
    choose_operating_point,
    patients_needed,
    poisson_upper_limit,
)
from msseg_lightning.evaluate.score import score_case


def marks(patient, false=(), true=(), volumes=None, lesions=None):
    """False lesions and true ones, each of which finds one lesion, by their scores."""
    scores = np.array([*false, *true], float)
    return Marks(
        patient,
        scores,
        np.full(len(scores), 10.0) if volumes is None else np.array(volumes, float),
        np.arange(len(scores)) >= len(false),
        len(true) if lesions is None else lesions,
        np.array([(len(false) + one, one) for one in range(len(true))], int).reshape(-1, 2),
    )


def cohort(patients, seed, clustering=None):
    """Half of the patients without new lesions, 3 false lesions each, more in some patients."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(patients):
        own = 1.0 if clustering is None else random.gamma(1 / clustering, clustering)
        false = random.beta(2, 3, random.poisson(3 * own))
        true = random.beta(4, 2, number % 2 * (1 + random.poisson(2)))
        volumes = 3 + random.exponential(20, len(false) + len(true))
        found.append(marks(f"p{number:03}", false, true, volumes))
    return found


def false_per_patient(pairs, point):
    """Of patients without new lesions."""
    return np.mean(
        [
            ((pair.scores >= point.least_score) & (pair.volumes_mm3 >= point.smallest_mm3)).sum()
            for pair in pairs
            if pair.lesions == 0
        ]
    )


def broken_budgets(clustering=None, repetitions=50):
    """Of so many choices of a point, those with more false lesions in unseen patients."""
    unseen = cohort(2000, 10**6, clustering)
    broken = 0
    for seed in range(repetitions):
        point = choose_operating_point(
            cohort(120, seed, clustering), 0.25, 0.9, smallest_mm3=(0, 10)
        )
        assert point.certified
        broken += false_per_patient(unseen, point) > 0.25
    return broken


@pytest.mark.parametrize("clustering", [None, 1.0, 3.0])
def test_a_budget_holds_on_unseen_patients_with_its_confidence(clustering):
    # 50 choices at 90 %: more than 10 broken budgets have a probability of 0.9 %
    assert broken_budgets(clustering) <= stats.binom.ppf(0.99, 50, 0.1)


def test_the_mean_in_place_of_the_limit_breaks_the_budget(monkeypatch):
    monkeypatch.setattr(
        operating_point, "poisson_upper_limit", lambda events, exposure, *_: events / exposure
    )
    assert broken_budgets() > stats.binom.ppf(0.99, 50, 0.1)


def test_clustered_lesions_widen_the_limit():
    even = [marks(f"p{n}", [0.5] * (n < 10)) for n in range(100)]
    one = [marks(f"p{n}", [0.5] * (10 * (n == 0))) for n in range(100)]
    limits = [choose_operating_point(pairs, 1.0).upper_limit for pairs in (even, one)]
    assert limits[0] == pytest.approx(stats.chi2.ppf(0.9, 22) / 200, rel=1e-3)
    assert limits[1] > 2 * limits[0]


def test_upper_limit_by_hand():
    # no event in 46 patients: exp(-46 * 0.05) = 0.1
    assert poisson_upper_limit(np.zeros(1), 46, 0.9)[0] == pytest.approx(-math.log(0.1) / 46)
    assert poisson_upper_limit(np.array([3.0]), 10, 0.95)[0] == pytest.approx(0.7754, abs=1e-4)
    assert patients_needed(0.05, 0.9) == 47  # 46.05


def test_the_point_by_hand():
    # 100 patients without: 4 false lesions of 0.9 to 0.6, and 20 with a score of 0.3
    false = [[0.9], [0.8], [0.7], [0.6], *[[0.3]] * 20, *[[]] * 76]
    without = [marks(f"a{n:03}", scores) for n, scores in enumerate(false)]
    with_lesions = [marks(f"b{n}", [0.99], [0.95, 0.65, 0.5, 0.2]) for n in range(10)]
    point = choose_operating_point([*without, *with_lesions], 0.1, 0.9)
    # limits of 4 and 24 events in 100 patients: 0.080 and 0.315
    assert point.certified and point.patients == 100
    assert point.least_score == pytest.approx(0.5, abs=1e-5) and point.least_score < 0.5
    assert point.false_per_patient == 0.04
    assert point.upper_limit == pytest.approx(stats.chi2.ppf(0.9, 10) / 200)
    assert point.sensitivity == 0.75  # those of 0.2 are lost
    strict = choose_operating_point([*without, *with_lesions], 0.05, 0.9)
    assert strict.sensitivity == 0.25  # 1 event: 0.039, 2 events: 0.053
    # of points that find as many the strictest
    assert strict.least_score == pytest.approx(0.95, abs=1e-5) and strict.false_per_patient == 0
    assert "at most 0.05 false lesions per patient without new lesions with 90% confidence" in str(
        strict
    )


def test_false_lesions_of_patients_with_lesions_count_for_all():
    pairs = [marks(f"p{n:03}", [0.8], [0.9, 0.7]) for n in range(60)]
    pairs += [marks(f"q{n:03}") for n in range(60)]
    assert choose_operating_point(pairs, 0.2).sensitivity == 1
    assert choose_operating_point(pairs, 0.2, population="all").sensitivity == 0.5


def test_threshold_and_smallest_lesion_are_chosen_on_other_patients():
    without = [marks(f"a{n:03}") for n in range(60)]
    # small false lesions with high scores: only a smallest lesion removes them
    noisy = [marks(f"b{n}", [0.9, 0.9], [0.8, 0.7], volumes=[4, 4, 40, 40]) for n in range(10)]
    clean = [marks(f"b{n}", [], [0.8]) for n in range(10)]
    point = choose_operating_point([*without, *noisy], 0.1, smallest_mm3=(0, 10))
    assert (point.threshold, point.smallest_mm3) == (None, 10)
    by_threshold = {0.5: [*without, *noisy], 0.7: [*without, *clean]}
    assert choose_operating_point(by_threshold, 0.1).threshold == 0.7


def test_pairs_of_one_patient_are_counted_together():
    apart = [marks(f"p{n}", [0.5] * (n < 6)) for n in range(60)]
    together = [marks(f"p{n // 3}", [0.5] * (n < 6)) for n in range(60)]
    first, second = (choose_operating_point(pairs, 1.0) for pairs in (apart, together))
    assert (first.patients, second.patients) == (60, 20)
    assert second.upper_limit > first.upper_limit
    assert second.false_per_patient == first.false_per_patient == 0.1


def test_too_few_patients_are_said_or_refused():
    pairs = [marks(f"a{n}", [0.6] * (n == 0)) for n in range(10)]
    pairs += [marks("b", [], [0.9, 0.5])]
    point = choose_operating_point(pairs, 0.05)
    assert not point.certified and point.patients_needed == 47
    assert point.false_per_patient == 0 and point.sensitivity == 0.5  # above the only false one
    assert point.upper_limit == pytest.approx(-math.log(0.1) / 10)
    assert "NOT CERTIFIED: 10 patients cannot show at most 0.05" in str(point)
    with pytest.raises(MssegError, match="too few to certify"):
        choose_operating_point(pairs, 0.05, too_few="refuse")


def test_a_point_that_finds_nothing_is_refused():
    pairs = [marks(f"a{n}", [0.9, 0.9]) for n in range(50)] + [marks("b", [], [0.5])]
    with pytest.raises(MssegError, match="no point within this budget finds a lesion"):
        choose_operating_point(pairs, 0.1)


def test_without_true_lesions_the_loosest_point_within_the_budget_is_taken():
    pairs = [marks(f"a{n}", [0.4]) for n in range(50)]
    point = choose_operating_point(pairs, 2.0)
    assert point.sensitivity is None and point.least_score < 0.4 and point.false_per_patient == 1


def test_marks_of_a_scored_mask():
    reference = np.zeros((3, 3, 100), np.uint8)
    predicted = reference.copy()
    reference[1, 1, 10:20] = reference[1, 1, 60:70] = 1
    predicted[1, 1, 10:18] = predicted[1, 1, 30:42] = predicted[1, 1, 90:92] = 1  # 8, 12, 2
    found = Marks.of("p", score_case(predicted, reference, (1, 1, 1)), [0.3, 0.9])
    assert found.volumes_mm3.tolist() == [12, 8]  # 2 mm3 are no lesion
    assert found.right.tolist() == [False, True] and found.lesions == 2
    assert found.scores[found.finds[0, 0]] == 0.9 and len(found.finds) == 1


@pytest.mark.parametrize(("budget", "confidence"), [(0, 0.9), (-1, 0.9), (0.1, 1), (0.1, 0)])
def test_values_out_of_range_are_refused(budget, confidence):
    with pytest.raises(MssegError, match="outside its range"):
        choose_operating_point([marks("a")], budget, confidence)


def test_more_scores_than_are_tried(monkeypatch):
    monkeypatch.setattr(operating_point, "LEVELS", 20)
    pairs = cohort(120, 1)
    point = choose_operating_point(pairs, 0.5)
    assert point.certified and point.sensitivity > 0.2
