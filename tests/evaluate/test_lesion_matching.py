from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.evaluate.foreground_runs import find_runs
from msseg_lightning.evaluate.lesion_matching import match_lesions, minimum_voxels


def rows(*lines):
    """Masks drawn with characters: r reference, p prediction, b both; one line per row."""
    drawn = np.array([list(line) for line in lines])
    padded = np.full((len(lines), 1, max(map(len, lines))), ".")
    padded[:, 0] = drawn
    reference = np.isin(padded, ["r", "b"]).astype(np.uint8)
    prediction = np.isin(padded, ["p", "b"]).astype(np.uint8)
    return find_runs(prediction), find_runs(reference)


@pytest.mark.parametrize(
    ("limit", "voxel", "expected"),
    [(3.0, 1.0, 4), (3.0, 0.125, 25), (3.0, 0.9**3, 5), (0.0, 1.0, 1), (10.0, 1.0, 11)],
)
def test_smallest_lesion(limit, voxel, expected):
    assert minimum_voxels(limit, voxel) == expected


def test_one_bad_detector_rejects_the_lesion():
    # the reference is covered by two predictions of 5 voxels each; the first visited (equal
    # overlap, larger component) lies outside by 15 of 20 voxels
    match = match_lesions(
        *rows("bbbbbppppppppppppppp", "r...................", "bbbbb..............."), 1
    )
    assert match.reference_counted == 1
    assert match.reference_found.tolist() == [False]
    # outside by 5 of 10 is accepted
    match = match_lesions(*rows("bbbbbppppp", "r.........", "bbbbb....."), 1)
    assert match.reference_found.tolist() == [True]


def test_detectors_after_gamma_are_not_looked_at():
    # 7 of 10 covered voxels come from a good prediction (share 0.7 >= 0.65); the second is bad
    drawing = rows("bbbbbbb.............", "r...................", "bbbppppppppppppppppp")
    assert match_lesions(*drawing, 1).reference_found.tolist() == [True]
    assert match_lesions(*drawing, 1, gamma=0.8).reference_found.tolist() == [False]


def test_small_components_are_background_for_both():
    # the prediction of 2 voxels is erased, so the reference is not covered at all
    match = match_lesions(*rows("bbrrrr"), 4)
    assert (match.reference_counted, match.prediction_counted) == (1, 0)
    assert match.reference_found.tolist() == [False]
    assert match.reference_overlap.tolist() == [2]
    assert match.f1 == 0.0 and match.precision == 0.0


def test_no_lesion_above_the_limit_leaves_sensitivity_open():
    match = match_lesions(*rows("rr..pppp"), 4)
    assert match.sensitivity is None
    assert match.f1 == 0.0


def test_one_prediction_over_two_lesions_serves_both():
    match = match_lesions(*rows("bbbbbpppbbbbb"), 1)
    assert match.reference_found.tolist() == [True, True]
    assert match.prediction_found.tolist() == [True]
    assert match.pairs.tolist() == [[0, 0, 5], [1, 0, 5]]
