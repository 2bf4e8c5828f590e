import itertools

import numpy as np
import pytest
from scipy import stats

from msseg_lightning.compare.statistics import (
    Measurement,
    compare_systems,
    group_letters,
    holm,
    letter,
    sign_change_test,
    smallest_difference,
)

REPETITIONS = 200


def simulated(rng, means, patients=32, seeds=1, shared=0.6, size=3.0):
    """Scores in [0, 1] with exactly these means in the population; hard patients are hard for all.

    Returns (systems, seeds, patients).
    """
    difficulty = rng.normal(size=patients)
    own = rng.normal(size=(len(means), 1, patients))
    noise = rng.normal(size=(len(means), seeds, patients))
    z = np.sqrt(shared) * difficulty + np.sqrt(1 - shared) * (own + noise) / np.sqrt(2)
    means = np.array(means)[:, None, None]
    return stats.beta.ppf(stats.norm.cdf(z), means * size, (1 - means) * size)


def rows(values, names="ABCDEFGH"):
    return [
        Measurement(names[s], f"p{p:03d}", k, values[s, k, p])
        for s, k, p in itertools.product(*map(range, values.shape))
    ]


def quick(values, **more):
    return compare_systems(rows(values), samples=1000, sign_changes=1000, **more)


@pytest.fixture(scope="module")
def repeated():
    """200 cohorts of 32 patients with planted means; B and C are equal, A and D far away."""
    rng = np.random.default_rng(18)
    return [
        quick(simulated(rng, (0.8, 0.55, 0.55, 0.25), seeds=2), seed=number)
        for number in range(REPETITIONS)
    ]


PLANTED = {"A": 0.8, "B": 0.55, "C": 0.55, "D": 0.25}


def test_intervals_cover_at_the_stated_rate(repeated):
    inside = [
        one.interval[0] <= PLANTED[one.system] <= one.interval[1]
        for found in repeated
        for one in found.systems
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
    pairs = [pair for found in repeated for pair in found.pairs]
    inside = [
        pair.interval[0] <= PLANTED[pair.better] - PLANTED[pair.worse] <= pair.interval[1]
        for pair in pairs
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_intervals_of_few_skewed_patients_cover_too():
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(REPETITIONS):
        one = quick(simulated(rng, (0.85,), patients=12)).systems[0]
        inside.append(one.interval[0] <= 0.85 <= one.interval[1])
    assert 0.9 <= np.mean(inside) <= 0.99


def test_planted_order_is_recovered_where_it_can_be_resolved(repeated):
    right = [
        [one.system for one in found.systems][0::3] == ["A", "D"]
        and not set(found.of("A").letters) & set(found.of("B").letters + found.of("C").letters)
        and not set(found.of("D").letters) & set(found.of("B").letters + found.of("C").letters)
        for found in repeated
    ]
    assert np.mean(right) > 0.95
    assert np.mean([found.of("A").first for found in repeated]) > 0.99
    assert all(found.of("D").rank_interval[1] == 4 for found in repeated)


def test_a_tie_is_declared_where_the_order_cannot_be_resolved(repeated):
    tied = [bool(set(found.of("B").letters) & set(found.of("C").letters)) for found in repeated]
    assert np.mean(tied) > 0.93
    firsts = [found.of("B").ranks[1] for found in repeated]
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.06)


def test_any_difference_among_equal_systems_is_rare():
    rng = np.random.default_rng(7)
    wrong = [
        any(pair.told_apart for pair in quick(simulated(rng, (0.5,) * 5, patients=20)).pairs)
        for _ in range(REPETITIONS)
    ]
    assert np.mean(wrong) <= 0.08


def test_smallest_difference_is_shown_with_the_stated_power():
    rng = np.random.default_rng(5)
    found = quick(simulated(rng, (0.5, 0.5), patients=400))
    sd = found.pairs[0].sd
    needed = smallest_difference(sd, 32)
    shown = []
    for _ in range(REPETITIONS):
        differences = rng.normal(needed, sd, size=(32, 1))
        shown.append(sign_change_test(differences, sign_changes=1000)[0] < 0.05)
    assert np.mean(shown) == pytest.approx(0.8, abs=0.08)
    # by hand, with many patients: (1.96 + 0.84) sd / sqrt(n)
    assert smallest_difference(0.3, 10_000) == pytest.approx(2.8016 * 0.3 / 100, rel=1e-3)
    assert smallest_difference(0.3, 32, level=0.05 / 45) > 1.3 * smallest_difference(0.3, 32)
    assert np.isfinite(smallest_difference(0.3, 3, level=0.05 / 780))


def test_pairs_and_seeds_lie_within_their_patient():
    """A patient counts once: its pairs by their mean, then its seeds by theirs."""
    table = [
        Measurement("A", "1", 0, 0.0), Measurement("A", "1", 0, 1.0),  # two pairs, mean 0.5
        Measurement("A", "1", 1, 0.7), Measurement("A", "1", 1, 0.7),
        Measurement("A", "2", 0, 0.2), Measurement("A", "2", 1, 0.4),
    ]  # fmt: skip
    found = compare_systems(table, samples=200)
    (one,) = found.systems
    assert one.mean == pytest.approx((0.6 + 0.3) / 2)
    assert one.seeds == 2
    # of seed 0: (0.5 + 0.2) / 2, of seed 1: (0.7 + 0.4) / 2
    assert one.seed_sd == pytest.approx(np.std([0.35, 0.55], ddof=1))
    assert found.pairs == () and found.smallest_difference is None
    assert one.ranks == (1.0,) and one.letters == "a"


def test_equal_rows_give_equal_results_in_any_order():
    values = simulated(np.random.default_rng(0), (0.6, 0.5), patients=20, seeds=2)
    table = rows(values)
    one = compare_systems(table, samples=300, sign_changes=500)
    assert compare_systems(table[::-1], samples=300, sign_changes=500) == one
    assert compare_systems(table, seed=1, samples=300, sign_changes=500) != one


def test_smaller_can_be_better():
    values = np.array([[[3.0, 4, 5, 3, 4, 5, 4]], [[0.0, 1, 0, 1, 0, 1, 0]]])
    found = compare_systems(rows(values), larger_is_better=False, samples=300)
    assert [one.system for one in found.systems] == ["B", "A"]
    assert [one.first for one in found.systems] == [1.0, 0.0]
    assert [one.letters for one in found.systems] == ["a", "b"]
    assert found.pairs[0].difference == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert found.pairs[0].p == pytest.approx(2 / 2**7)  # all seven differences have one sign


def test_equal_systems_share_everything():
    values = np.repeat(simulated(np.random.default_rng(0), (0.6,), patients=20), 3, axis=0)
    found = compare_systems(rows(values), samples=300, sign_changes=500)
    assert [one.rank for one in found.systems] == [1, 1, 1]
    for one in found.systems:
        assert one.letters == "a"
        assert one.ranks == pytest.approx((1 / 3,) * 3)
        assert one.rank_interval == (1, 3)
    assert all(pair.p == 1 and pair.interval is None for pair in found.pairs)


def test_one_patient_has_no_interval_and_tells_nothing_apart():
    found = compare_systems(rows(np.array([[[0.9]], [[0.1]]])), samples=100)
    assert [one.interval for one in found.systems] == [None, None]
    assert found.pairs[0].p == 1 and found.smallest_difference is None
    assert [one.letters for one in found.systems] == ["a", "a"]


def test_equal_values_have_no_interval():
    """No false lesion in nine patients is not "never": a bootstrap could not tell."""
    found = compare_systems(rows(np.full((1, 1, 9), 0.3)), samples=100)
    assert found.systems[0].mean == pytest.approx(0.3) and found.systems[0].interval is None


def test_missing_patients_are_refused():
    table = [Measurement("A", "1", 0, 0.5), Measurement("A", "2", 0, 0.5)]
    with pytest.raises(ValueError, match="not every patient"):
        compare_systems([*table, Measurement("B", "1", 0, 0.5)])
    with pytest.raises(ValueError, match="no rows"):
        compare_systems([])


def test_sign_changes_agree_with_scipy():
    rng = np.random.default_rng(2)
    few = rng.normal(0.3, 1, size=(9, 3))
    expected = [
        stats.permutation_test(
            (few[:, k],), np.sum, permutation_type="samples", alternative="two-sided"
        ).pvalue
        for k in range(3)
    ]
    assert sign_change_test(few) == pytest.approx(np.array(expected), abs=1e-9)
    many = rng.normal(0.2, 1, size=(40, 2))
    t = stats.ttest_1samp(many, 0).pvalue
    assert sign_change_test(many, sign_changes=20_000) == pytest.approx(t, abs=0.02)


def test_holm_by_hand():
    # sorted .01 .03 .04: times 3, 2, 1 = .03 .06 .04, and never smaller than the one before
    assert holm(np.array([0.03, 0.01, 0.04])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])


def test_letters_by_hand():
    assert group_letters(4, []) == ["a"] * 4
    assert group_letters(4, [(0, 1), (0, 2), (0, 3)]) == ["a", "b", "b", "b"]
    assert group_letters(4, [(0, 2), (0, 3), (1, 3)]) == ["a", "ab", "bc", "c"]
    assert (letter(25), letter(26), letter(52)) == ("z", "A", "a1")


def test_two_systems_share_a_letter_exactly_if_they_are_not_told_apart():
    rng = np.random.default_rng(0)
    every = list(itertools.combinations(range(9), 2))
    for _ in range(30):
        apart = [pair for pair in every if rng.random() < 0.5]
        found = group_letters(9, apart)
        for one, other in every:
            assert bool(set(found[one]) & set(found[other])) == ((one, other) not in apart)


def test_forty_systems_are_compared_in_seconds():
    import time

    rng = np.random.default_rng(1)
    values = simulated(rng, np.linspace(0.3, 0.7, 40), patients=100, seeds=2)
    table = rows(values, [f"s{number:02d}" for number in range(40)])
    began = time.process_time()
    found = compare_systems(table)
    assert time.process_time() - began < 30
    assert len(found.pairs) == 780
    assert found.systems[0].letters.startswith("a")
    assert min(pair.p_holm for pair in found.pairs) < 0.01  # 100,000 sign changes are enough
