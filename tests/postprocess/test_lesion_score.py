import numpy as np
import pytest

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.problem import MssegError
from msseg_lightning.postprocess.lesion_score import LeastLesionScore, lesion_scores
from tests.postprocess.phantom import blocks, predicted

TWO = blocks((8, 5, 4), ((0, 2), (0, 2), (0, 2)), ((5, 7), (1, 2), (0, 1)))  # 8 and 2 voxels


def probabilities():
    found = np.zeros(TWO.shape, np.float32)
    found[:2, :2, :2] = 0.4
    found[0, 0, 0] = 0.8  # mean 0.45
    found[5:7, 1, 0] = (0.5, 0.7)
    return found


@pytest.mark.parametrize(("measure", "expected"), [("mean", (0.45, 0.6)), ("max", (0.8, 0.7))])
def test_scores_by_hand(measure, expected):
    labels, count = label_lesions(TWO)
    first = labels[0, 0, 0] - 1
    scores = lesion_scores(labels, count, probabilities(), measure)
    assert (scores[first], scores[1 - first]) == pytest.approx(expected)
    assert len(lesion_scores(labels * 0, 0, probabilities(), measure)) == 0


@pytest.mark.parametrize(
    ("measure", "value", "voxels"),
    [("mean", 0.3, 10), ("mean", 0.5, 2), ("max", 0.75, 8), ("mean", 0.9, 0), ("max", 0.65, 10)],
)
def test_lesions_below_the_value_go(measure, value, voxels):
    rule = LeastLesionScore(value, measure)
    prediction = predicted(TWO, probability=probabilities())
    assert rule(prediction).mask.sum() == voxels
    assert rule(predicted(TWO * 0, probability=probabilities())).mask.sum() == 0


def test_lesions_that_touch_at_an_edge_are_two():
    mask = blocks((4, 4, 1), ((0, 2), (0, 2), (0, 1)), ((2, 3), (2, 3), (0, 1)))
    probability = np.where(np.arange(4)[:, None, None] == 2, 0.9, 0.2) * mask
    rule = LeastLesionScore(0.5)
    assert rule(predicted(mask, probability=probability.astype(np.float32))).mask.sum() == 1


def test_a_system_without_probabilities_is_refused():
    with pytest.raises(MssegError, match="no probabilities to score lesions by"):
        LeastLesionScore(0.5)(predicted(TWO))
    with pytest.raises(ValueError, match="unknown measure"):
        LeastLesionScore(0.5, "median")
