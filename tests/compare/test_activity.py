import dataclasses

import numpy as np
import pytest

from msseg_lightning.compare.activity import activity_of, activity_roc, area_interval
from msseg_lightning.compare.systems import read_systems
from tests.compare import scored


def test_an_area_by_hand():
    """Pairs of (1, 3) and (0, 1, 2): 1 over 0, a tie with 1, below 2; 3 over all: 4.5 of 6."""
    roc = activity_roc(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    assert roc.area == pytest.approx(4.5 / 6)
    assert roc.false_alarms == pytest.approx((0, 0, 1 / 3, 2 / 3, 1))
    assert roc.found == pytest.approx((0, 0.5, 0.5, 1, 1))
    flipped = activity_roc(-np.array([1.0, 3.0]), -np.array([0.0, 1.0, 2.0]))
    assert flipped.area == pytest.approx(1.5 / 6)


def test_a_perfect_area_is_not_taken_for_exact():
    low, high = area_interval(1.0, 14, 6)
    assert 0.7 < low < 0.9 and high == 1.0
    assert area_interval(0.0, 14, 6) == pytest.approx((0.0, 1 - low))
    assert area_interval(1.0, 140, 60)[0] > low


@pytest.mark.parametrize("true", [0.8, 0.95])
def test_intervals_cover_the_true_area(true):
    """Normal scores, shifted so that the area is the true one; 20 and 10 patients."""
    from scipy import stats

    generator = np.random.default_rng(0)
    shift = np.sqrt(2) * stats.norm.ppf(true)
    covered = 0
    for _ in range(300):
        active = generator.normal(shift, 1, 20)
        low, high = activity_roc(active, generator.normal(0, 1, 10)).interval
        covered += low <= true <= high
    assert 0.92 <= covered / 300 <= 0.99


def test_patients_count_once_and_what_is_not_recorded_is_none(tmp_path):
    runs = [scored.write_run(tmp_path, "net", scored.scores(0.9, key), seed=key) for key in (1, 2)]
    (system,) = read_systems([str(run) for run in runs])
    found = activity_of(system)
    assert (found.active, found.inactive) == (12, 4)
    marked = [
        sum(bool(one.detection["n_test"]) for one in cases.values() if one.has_new_lesions)
        for cases in system.seeds.values()
    ]
    assert found.active_marked == pytest.approx(sum(marked) / 2)
    assert found.rocs["predicted volume"].area > 0.9
    assert found.rocs["sum of probabilities"] is None
    seeds = {
        seed: {
            pair: dataclasses.replace(
                score, activity={"probability_volume_mm3": float(score.has_new_lesions)}
            )
            for pair, score in cases.items()
        }
        for seed, cases in system.seeds.items()
    }
    assert (
        activity_of(dataclasses.replace(system, seeds=seeds)).rocs["sum of probabilities"].area == 1
    )


def test_without_both_groups_there_is_no_activity(tmp_path):
    run = scored.write_run(tmp_path, "net", scored.scores(0.9, 1, scored.patients()[:5]))
    assert activity_of(read_systems([str(run)])[0]) is None
