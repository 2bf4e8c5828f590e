from __future__ import annotations

import numpy as np

from msseg_lightning.evaluate.tie_order import descending_order


def test_up_to_sixteen_values_equal_ones_keep_their_places():
    values = [3, 1, 3, 2, 3, 1] + [0] * 10
    assert descending_order(values)[:6] == [0, 2, 4, 3, 1, 5]


def test_more_than_sixteen_values_by_hand():
    # 17 values: 5 at places 0 and 16, else 0. The median of places 1, 8, 16 (0, 0, 5) is the 0 at
    # place 8; it changes places with the 5 at the front, which now lies at place 8. Both cursors
    # stop at once, left at place 1 (0 is not above 0), right at place 16 (0 is not above 5), and
    # swap, and so on inwards: the 5 of place 16 is now at place 1, the 5 of place 0 at place 9.
    order = descending_order([5, *[0] * 15, 5])
    assert order[:2] == [16, 0]
    assert sorted(order) == list(range(17))


def test_always_descending():
    rng = np.random.default_rng(1)
    for _ in range(200):
        values = rng.integers(0, 6, rng.integers(0, 200)).tolist()
        order = descending_order(values)
        assert sorted(order) == list(range(len(values)))
        assert [values[place] for place in order] == sorted(values, reverse=True)
