import numpy as np
import pytest

from msseg_lightning.simulate.rater import chance_of_marking, consensus


def line(*ranges, length=40):
    mask = np.zeros((length, 1, 1), np.uint8)
    for start, stop in ranges:
        mask[start:stop] = 1
    return mask


def found(mask):
    return np.flatnonzero(mask.ravel()).tolist()


def test_consensus_by_hand():
    marks = [
        line((0, 4), (10, 14), (20, 24)),
        line((1, 5), (11, 15), (30, 34)),
        line((2, 6), (20, 22)),
        line((36, 38)),
    ]
    # 0-6: three raters, two of three needed: 1..4 (1: raters 1+2, 4: raters 2+3)
    # 10-15: two raters, expert decides; one of two is half: the union 10..14
    # 20-24: two raters: the union 20..23; 30-34 and 36-38: one rater each
    assert found(consensus(marks, lambda lesion: False)) == [1, 2, 3, 4]
    accepted = consensus(marks, lambda lesion: bool(lesion[12, 0, 0]))
    assert found(accepted) == [1, 2, 3, 4, 10, 11, 12, 13, 14]
    everything = consensus(marks, lambda lesion: True)
    assert found(everything) == [1, 2, 3, 4, *range(10, 15), *range(20, 24), *range(30, 34), 36, 37]


def test_not_a_plain_majority_vote():
    # all four mark the lesion; half of four is two: voxels 1..3, where a majority would want three
    marks = [line((0, 3)), line((0, 3)), line((2, 6)), line((2, 4))]
    assert found(consensus(marks, lambda lesion: False)) == [0, 1, 2, 3]
    # only raters who marked this lesion count
    marks = [line((0, 3)), line((1, 4)), line((20, 22)), line()]
    assert found(consensus(marks, lambda lesion: True)) == [0, 1, 2, 3, 20, 21]


def test_nobody_marked_anything():
    assert consensus([line()] * 4, lambda lesion: True).sum() == 0


def test_touching_by_an_edge_is_two_lesions():
    mask = np.zeros((4, 4, 1), np.uint8)
    mask[0:2, 0:2] = mask[2:4, 2:4] = 1
    seen = []
    consensus([mask, mask * 0, mask * 0, mask * 0], lambda lesion: bool(seen.append(lesion.sum())))
    assert seen == [4, 4]


def test_chance_grows_with_size_and_contrast():
    assert chance_of_marking(0.9, 100, 1.35) == pytest.approx(0.9)
    assert chance_of_marking(0.85, 10, 1.15) == pytest.approx(0.5, abs=0.05)
    sizes = [chance_of_marking(0.85, volume, 1.3) for volume in (5, 20, 100, 300)]
    contrasts = [chance_of_marking(0.85, 50, contrast) for contrast in (1.1, 1.2, 1.4, 1.6)]
    assert sizes == sorted(sizes) and contrasts == sorted(contrasts)
