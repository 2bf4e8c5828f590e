"""Paired statistics of the window rules, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies.tiling import (
    DICE,
    F1,
    FALSE,
    FALSE_WITHOUT,
    RULES,
    agreement,
    paired,
    values,
    verdict,
    with_windows,
)
from msseg_lightning.evaluate.score import score_case


def table(shift: float, count: int = 24) -> tuple[dict[str, float], dict[str, float]]:
    """Patients a to x whose values differ by ``shift`` and a wave around it."""
    names = [chr(97 + index) for index in range(count)]
    reference = {name: 0.5 + 0.01 * index for index, name in enumerate(names)}
    own = {name: value + shift + 0.01 * (-1) ** ord(name) for name, value in reference.items()}
    return own, reference


def test_a_clear_loss_is_lower_and_no_change_is_not():
    lost = paired(F1, *table(-0.05))
    assert lost is not None and lost.lower
    assert lost.difference == pytest.approx(-0.05) and lost.changed == 24
    assert lost.interval is not None and lost.interval[0] < -0.05 < lost.interval[1] < 0
    # 24 decreases and no rise: an exact test without ties would say 2 ** -24
    assert lost.decrease_p < 1e-4
    same = paired(DICE, *(table(0.0)[1],) * 2)
    assert same is not None and same.lower is False
    assert (same.interval, same.decrease_p, same.changed) == ((0.0, 0.0), 1.0, 0)
    assert verdict([same]) == "not lower" and verdict([same, lost]) == "lower"
    gained = paired(F1, *table(0.05))
    assert gained is not None and not gained.lower


def test_few_patients_are_not_judged_and_none_have_no_figure():
    few = paired(F1, *table(-0.05, count=19))
    assert few is not None and few.lower is None and verdict([few]) == "too few patients"
    assert paired(F1, {}, {"a": 1.0}) is None and verdict([]) == "too few patients"
    one = paired(F1, {"a": 0.5, "b": 1.0}, {"a": 1.0})
    assert one is not None and (one.patients, one.difference, one.interval) == (1, -0.5, None)


def test_patients_without_new_lesions_stay_apart():
    reference, mask = np.zeros((2, 20, 20, 20), np.uint8)
    reference[2:5, 2:5, 2:5] = 1
    mask[2:5, 2:5, 2:5] = mask[10:13, 10:13, 10:13] = mask[15:17, 15:17, 15:17] = 1
    scores = {
        "with": score_case(mask, reference, (1.0, 1.0, 1.0)),
        "without": score_case(mask, np.zeros_like(mask), (1.0, 1.0, 1.0)),
    }
    found = values(scores)
    # one of three marks is right: precision 1/3, sensitivity 1; Dice 2 * 27 / (27 + 62)
    assert found[F1] == {"with": pytest.approx(0.5)}
    assert found[DICE] == {"with": pytest.approx(54 / 89)}
    assert found[FALSE] == {"with": 2.0} and found[FALSE_WITHOUT] == {"without": 3.0}


def test_masks_of_all_patients_agree_together():
    own = {"a": np.array([1, 2, 3]), "b": np.array([], int)}
    # 2 of 3 and 2 voxels, none of none: 4 / 5; a voxel more in the empty one: 4 / 6
    reference = {"a": np.array([2, 3]), "b": np.array([], int)}
    assert agreement(own, reference) == pytest.approx(4 / 5)
    assert agreement(own, {**reference, "b": np.array([7])}) == pytest.approx(4 / 6)
    assert agreement({"b": own["b"]}, {"b": own["b"]}) is None


def test_windows_change_wherever_they_lie():
    window = {"_target_": "msseg_lightning.infer.sliding_window.SlidingWindow", "size": 8}
    infer = {"_target_": "msseg_lightning.infer.aggregate.Flipped", "window": window, "axes": [0]}
    changed = with_windows(infer, RULES["one_pass, bf16"])
    assert changed["window"] == {**window, "tiling": "one_pass", "precision": "bf16"}
    assert changed["axes"] == [0] and "tiling" not in changed and "tiling" not in window
    other = {"_target_": "msseg_lightning.infer.slices.SliceWise"}
    assert with_windows(other, RULES["one_pass, bf16"]) == other
