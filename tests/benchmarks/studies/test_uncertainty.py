import numpy as np
import pytest

from benchmarks.studies.uncertainty import marks, summary


def test_marks_are_right_where_they_touch_the_reference():
    mask, reference = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    spread = np.full((6, 6, 6), 0.9)
    mask[0, 0, :4] = 1
    reference[0, 0, 3:] = 1
    spread[0, 0, :4] = [0.1, 0.1, 0.2, 0.2]
    mask[4, 4, :2] = 1
    spread[4, 4, :2] = [0.3, 0.5]
    right, wrong = marks(mask, reference, spread)
    assert right == pytest.approx([0.15]) and wrong == pytest.approx([0.4])


def test_the_summary_by_hand():
    """Of six pairs three have the wrong mark above, one is even."""
    found = summary([0.1, 0.2, 0.4], [0.2, 0.3])
    assert found["right marks"] == 3 and found["wrong marks"] == 2
    assert found["mean uncertainty of wrong marks"] == pytest.approx(0.25)
    assert found["mean uncertainty of right marks"] == pytest.approx(0.7 / 3)
    assert found["wrong above right, share of pairs"] == pytest.approx(3.5 / 6)
    assert summary([], [0.1])["wrong above right, share of pairs"] is None
