"""The Dice of S01."""

from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.evaluate.modified_dice import modified_dice
from msseg_lightning.evaluate.score import score_case


def test_empty_masks():
    empty, ten = np.zeros((2, 5, 5, 5))
    ten.ravel()[:10] = 1
    assert modified_dice(empty, empty) == 1.0
    assert modified_dice(ten, empty) < 1e-6 and modified_dice(empty, ten) < 1e-6


def test_probabilities_and_weights_by_hand():
    probability, target = np.array([0.5, 0.25, 1.0]), np.array([1, 0, 1])
    # 2 (0.5 + 1) / (2 + 1.75)
    assert modified_dice(probability, target) == pytest.approx(3 / 3.75, rel=1e-6)
    weight = np.array([1, 3, 2])  # as if the second row came three times and the third twice
    repeated = modified_dice(np.repeat(probability, weight), np.repeat(target, weight))
    assert modified_dice(probability, target, weight) == pytest.approx(repeated)


def test_of_masks_it_is_what_the_score_table_calls_modified():
    first, second = np.zeros((2, 6, 6, 6), np.uint8)
    first[:2], second[1:4] = 1, 1
    row = score_case(first, second, (1.0, 1.0, 1.0))
    assert modified_dice(first, second) == pytest.approx(row.dice["modified"])
