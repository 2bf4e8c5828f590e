import numpy as np
import pytest

from msseg_lightning.compare.lesion_rules import (
    RULES,
    any_overlap,
    lesion_by_lesion,
    official,
    overlap_ratio,
)
from msseg_lightning.evaluate.score import score_case


def line(*parts):
    """Lesions in a row of 1 mm voxels."""
    mask = np.zeros((110, 3, 3), np.uint8)
    for start, stop in parts:
        mask[start:stop, 1, 1] = 1
    return mask


def score(true, predicted):
    return score_case(line(*predicted), line(*true), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        # equal masks are right by every rule
        ([(0, 10)], [(0, 10)], (1, 1, 1, 1, 1)),
        # 10 of 100 voxels: too few for the official rule, one voxel is enough for LTPR and LFPR;
        # IoU 10 / 100 is exactly 0.1
        ([(0, 100)], [(0, 10)], (0, 1, 1, 0, 0)),
        # one prediction over two lesions: 40 of its 60 voxels are lesions, 20 in each. One to one
        # only one is found: 1 of 2 and 1 of 1, F1 2/3; IoU 20 / 60. Of each lesion alone it lies
        # outside by 67 %, which is allowed
        ([(0, 20), (40, 60)], [(0, 60)], (1, 1, 2 / 3, 0, 1)),
        # longer: it lies outside of each alone by 77 %, which is too much, outside of both by 55 %
        ([(0, 25), (70, 95)], [(0, 110)], (1, 1, 2 / 3, 0, 0)),
        # fragments: one of three is matched one to one (IoU 12 / 40): 1 of 1 and 1 of 3, F1 1/2;
        # the others are right by the rules that ask lesion by lesion
        ([(0, 40)], [(0, 12), (14, 26), (28, 40)], (1, 1, 0.5, 0, 1)),
        ([(0, 10)], [], (0, 0, 0, 0, 0)),
        ([(0, 10)], [(50, 60)], (0, 0, 0, 0, 0)),
        # lesions up to 3 mm3 do not count
        ([(0, 10), (20, 23)], [(0, 10), (20, 23)], (1, 1, 1, 1, 1)),
    ],
)
def test_rules_by_hand(true, predicted, expected):
    found = [rule(score(true, predicted)) for rule in RULES.values()]
    assert found == pytest.approx(list(expected))


def test_without_a_true_lesion_no_rule_has_a_value():
    for rule in RULES.values():
        assert rule(score([], [(0, 10)])) is None
    small = score([(0, 3)], [(0, 3)])  # the official tool says 0 here
    assert official(small) == 0 and any_overlap(small) is None


def test_the_matching_has_the_most_matches():
    """Greedy matching by overlap would take the middle one and leave two unmatched."""
    one = score([(0, 20), (24, 44)], [(0, 8), (12, 32)])
    # 20 with 8: IoU 8/20; 20 with 20: 8/32; 24-44 with 12-32: 8/32
    assert overlap_ratio(0.2)(one) == 1


def test_each_two_lesions_equals_the_official_rule_for_single_lesions():
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, length = rng.integers(0, 40), rng.integers(4, 60)
        one = score([(20, 50)], [(int(start), int(start + length))])
        assert lesion_by_lesion(one) == official(one)
