"""S12: Dice with empty cases left empty counted as 1, as its table does, and without them."""

import numpy as np
import pytest

from msseg_lightning.evaluate.score import score_case
from msseg_lightning.run.train.run_report import published_dice

EMPTY, LESION = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
LESION[:5] = 1


def test_the_report_shows_dice_by_both_conventions():
    """By hand: one lesion half found, Dice 2/3; one empty case left empty, one with a false lesion.

    Over all three (2/3 + 1 + 0) / 3; over the one with lesions 2/3.
    """
    half = LESION.copy()
    half[:, 5:] = 0
    pairs = {"lesion": (half, LESION), "clean": (EMPTY, EMPTY), "false": (LESION, EMPTY)}
    scores = {name: score_case(*masks, (1.0, 1.0, 1.0)) for name, masks in pairs.items()}
    (shown,) = published_dice(scores).values()
    means = {words: value["mean"] for words, value in shown.items()}
    (all_cases,) = (mean for words, mean in means.items() if "S12" in words)
    (with_lesions,) = (mean for words, mean in means.items() if "new lesions only" in words)
    assert all_cases == pytest.approx(5 / 9)
    assert with_lesions == pytest.approx(2 / 3)
    assert published_dice({"lesion": scores["lesion"]}) == {}  # then they are the same
