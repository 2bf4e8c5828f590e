from __future__ import annotations

import json

import numpy as np
import pytest

from msseg_lightning.evaluate.score import score_case
from msseg_lightning.evaluate.summary import dice_as_published, summarise

UNIT = (1.0, 1.0, 1.0)


def line(*stretches):
    mask = np.zeros((3, 3, 200), np.uint8)
    for low, high in stretches:
        mask[1, 1, low:high] = 1
    return mask


@pytest.fixture
def scores():
    cases = {
        # prediction, reference
        "a": (line((0, 8)), line((0, 8))),  # Dice 1, F1 1
        "b": (line((0, 8)), line((100, 108))),  # Dice 0, F1 0
        "c": (line(), line((0, 50))),  # nothing predicted: distances have no value
        "d": (line((0, 2)), line((0, 2))),  # below the limit: SensL has no value, F1 is 0
        "e": (line(), line()),  # clean
        "f": (line((0, 5), (10, 20)), line()),  # two false lesions, 15 mm3
        "g": (line((0, 2)), line()),  # false voxels, but no lesion above 3 mm3
    }
    return {name: score_case(*masks, UNIT) for name, masks in cases.items()}


def test_groups_are_never_mixed(scores):
    summary = summarise(scores)
    assert summary.with_lesions.cases == ("a", "b", "c", "d")
    assert summary.without_lesions.cases == ("e", "f", "g")
    assert "NbTestedLesions" not in summary.with_lesions.measures


def test_statistics_by_hand(scores):
    measures = summarise(scores).with_lesions.measures
    dice = measures["Dice"]
    assert (dice.n, dice.undefined) == (4, 0)
    assert dice.mean == 0.5  # 1, 0, 0, 1
    assert dice.sd == pytest.approx(np.sqrt(1 / 3))
    assert (dice.quartile1, dice.median, dice.quartile3) == (0.0, 0.5, 1.0)
    assert dice.interval is not None and 0 <= dice.interval[0] < 0.5 < dice.interval[1] <= 1
    # a mean over the cases that have a value, and how many do not
    assert measures["SensL"].n == 3 and measures["SensL"].undefined == 1
    assert measures["SensL"].mean == pytest.approx(1 / 3)
    assert measures["HausdorffDistance"].undefined == 1
    assert measures["HausdorffDistance"].mean == pytest.approx(100 / 3)


def test_pooled_lesions(scores):
    lesions = summarise(scores).with_lesions.lesions
    assert (lesions.true, lesions.detected, lesions.predicted, lesions.matched) == (3, 1, 2, 1)
    assert lesions.sensitivity == pytest.approx(1 / 3)
    assert lesions.precision == 0.5
    assert lesions.f1 == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    small, middle, large, huge = summarise(scores).with_lesions.by_size
    assert (small.true, small.detected) == (2, 1)
    assert (middle.true, middle.sensitivity, middle.f1) == (0, None, None)
    assert (large.true, large.detected, large.f1) == (1, 0, 0.0)
    assert huge.high_mm3 is None


def test_cases_without_lesions(scores):
    group = summarise(scores).without_lesions
    assert (group.false_lesions.mean, group.false_volume_mm3.mean) == (pytest.approx(2 / 3), 5.0)
    assert group.clean == 2
    assert group.clean_share == pytest.approx(2 / 3)


def test_order_of_cases_does_not_matter_and_the_seed_does(scores):
    turned = dict(reversed(scores.items()))
    assert summarise(scores) == summarise(turned)
    rich = {f"{k}{i}": score for i in range(3) for k, score in scores.items()}
    first, second = (summarise(rich, seed).with_lesions.measures["Jaccard"] for seed in (0, 1))
    assert first.mean == second.mean


def test_interval_of_a_known_distribution():
    # 100 cases, half of them with Dice 1, half 0: the standard error is 0.05
    good, bad = (score_case(line(one), line((0, 9)), UNIT) for one in ((0, 9), (50, 59)))
    many = {f"{i:03d}": good if i % 2 else bad for i in range(100)}
    low, high = summarise(many).with_lesions.measures["Dice"].interval
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_few_cases_leave_spread_open(scores):
    summary = summarise({"a": scores["a"]})
    dice = summary.with_lesions.measures["Dice"]
    assert (dice.mean, dice.sd, dice.interval) == (1.0, None, None)
    assert summary.without_lesions.clean_share is None
    nothing = summarise({})
    assert nothing.with_lesions.measures == {} and nothing.with_lesions.lesions.f1 is None


def test_published_conventions_mix_on_request(scores):
    # a 1, b 0, c 0, d 1, e 1 (both empty), f 0, g 0
    assert dice_as_published(scores, "one_if_both_empty").mean == pytest.approx(3 / 7)
    assert dice_as_published(scores, "undefined_without_reference").undefined == 3


def test_summary_is_json(scores):
    json.dumps(summarise(scores).as_dict(), allow_nan=False)
