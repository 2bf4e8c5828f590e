"""A lesion is a connected component; the official scorer joins faces only."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.random import keyed_generator


def touching(kind):
    mask = np.zeros((6, 6, 6), bool)
    mask[0:2, 0:2, 0:2] = True
    start = {"face": (2, 0, 0), "edge": (2, 2, 0), "corner": (2, 2, 2)}[kind]
    mask[tuple(slice(s, s + 2) for s in start)] = True
    return mask


@pytest.mark.parametrize(
    ("kind", "connectivity", "count"),
    [
        ("face", 6, 1),
        ("edge", 6, 2),
        ("edge", 18, 1),
        ("corner", 18, 2),
        ("corner", 26, 1),
    ],
)
def test_blocks_that_touch(kind, connectivity, count):
    assert label_lesions(touching(kind), connectivity)[1] == count


def test_an_empty_mask_has_none():
    labels, count = label_lesions(np.zeros((3, 4, 5), np.uint8))
    assert count == 0 and not labels.any()


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_it_agrees_with_scipy_up_to_numbering(connectivity):
    mask = keyed_generator(0, "lesions").random((17, 18, 19)) > 0.7
    rank = {6: 1, 18: 2, 26: 3}[connectivity]
    expected, count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    labels, found = label_lesions(mask, connectivity)
    assert found == count
    assert len(np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1).T) == count + 1


def test_any_value_but_zero_is_lesion():
    assert label_lesions(np.array([[[0, 255, 0, -1]]]))[1] == 2
