from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.evaluate.lesion_score import scores_by_size
from msseg_lightning.evaluate.score import score_case


def scan(order):
    """Three lesions of 3, 5 and 5 voxels, in an array of either layout."""
    mask = np.zeros((12, 7, 5), np.uint8, order=order)
    mask[1:4, 1, 1] = 1
    mask[6, 1:6, 1] = 1
    mask[1:6, 4, 3] = 1
    probability = np.zeros(mask.shape, np.float32)
    probability[1:4, 1, 1] = (0.2, 0.4, 0.6)
    probability[6, 1:6, 1] = (0.5, 0.5, 0.5, 0.5, 1.0)
    probability[1:6, 4, 3] = 0.7
    return mask, probability


@pytest.mark.parametrize("mask_order", ["C", "F"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("measure", "values"), [("mean", (0.4, 0.6, 0.7)), ("max", (0.6, 1, 0.7))])
def test_scores_have_the_order_of_the_lesions_of_a_score(mask_order, order, measure, values):
    mask, probability = scan(mask_order)
    reference = np.zeros(mask.shape, np.uint8, order=order)
    reference[0, 0, 0] = 1
    scores = scores_by_size(mask, probability, reference, measure)
    by_centre = {(2, 1, 1): values[0], (6, 3, 1): values[1], (3, 4, 3): values[2]}
    lesions = score_case(mask, reference, (1, 1, 1)).predicted_lesions
    expected = [by_centre[tuple(round(edge) for edge in lesion.centre_voxel)] for lesion in lesions]
    assert scores == pytest.approx(expected)


def test_an_empty_mask_has_no_scores():
    mask, probability = scan("C")
    assert len(scores_by_size(mask * 0, probability, mask)) == 0
    assert len(scores_by_size(mask * 0, probability, mask, "max")) == 0
