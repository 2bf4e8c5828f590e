from __future__ import annotations

import math

import numpy as np
import pytest

from msseg_lightning.evaluate import metric
from msseg_lightning.evaluate.score import score_case

SPACING = (1.0, 0.5, 2.0)


@pytest.fixture
def masks():
    reference, prediction = np.zeros((2, 20, 20, 20), np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    reference[12:15, 12:15, 12:15] = 1
    prediction[3:6, 2:6, 2:6] = 1
    prediction[2:5, 12:16, 12:14] = 1  # false: 24 voxels of 1 mm3
    return prediction, reference


def test_equal_the_table(masks):
    score = score_case(*masks, SPACING)
    values = {**score.official, **score.surface}
    for function, name in (
        (metric.lesion_f1, "F1_score"),
        (metric.lesion_sensitivity, "SensL"),
        (metric.lesion_precision, "PPVL"),
        (metric.dice, "Dice"),
        (metric.hausdorff95_mm, "hausdorff95_mm"),
        (
            metric.average_symmetric_surface_distance_mm,
            "average_symmetric_surface_distance_mm",
        ),
    ):
        assert function(*masks, SPACING) == pytest.approx(values[name]), name
    assert metric.lesion_f1(*masks, SPACING) == 0.5


def test_false_lesions(masks):
    assert metric.false_lesions(*masks, SPACING) == 1.0
    assert metric.false_volume_mm3(*masks, SPACING) == 24.0
    empty = np.zeros_like(masks[0])
    assert metric.false_lesions(masks[0], empty, SPACING) == 2.0


def test_nan_without_reference(masks):
    empty = np.zeros_like(masks[0])
    for name in ("lesion_f1", "lesion_sensitivity", "lesion_precision", "dice", "hausdorff95_mm"):
        assert math.isnan(getattr(metric, name)(masks[0], empty, SPACING)), name
