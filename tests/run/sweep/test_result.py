"""What the best candidates can be expected to score."""

from __future__ import annotations

import pytest

from msseg_lightning.run.sweep.result import Retrained, expected_scores


def test_expected_scores_by_hand():
    first = Retrained(0, {}, 0.9, (0.5, 0.7))  # mean 0.6, variance of the mean 0.01
    second = Retrained(1, {}, 0.8, (0.1, 0.3))  # mean 0.2, the same
    # between: 0.08 - 0.01 = 0.07; share 0.07 / 0.08 = 0.875; centre 0.4
    assert expected_scores([first, second]) == pytest.approx([0.575, 0.225])
    equal = [Retrained(0, {}, 0.9, (0.5, 0.7)), Retrained(1, {}, 0.8, (0.7, 0.5))]
    assert expected_scores(equal) == pytest.approx([0.6, 0.6])
    assert expected_scores([Retrained(0, {}, 0.9, (0.5,)), second]) == pytest.approx([0.35, 0.35])
    assert expected_scores([]) == []
