from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.evaluate import nearest
from msseg_lightning.evaluate.nearest import group_voxels, nearest_distances


def brute_force(source, target, size, spacing):
    places = [np.array(np.unravel_index(part, size[::-1])) for part in (source, target)]
    scaled = [part * spacing[::-1, None] for part in places]
    return np.sqrt(((scaled[0][:, :, None] - scaled[1][:, None]) ** 2).sum(0)).min(1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", [(1, 1), (5, 400), (400, 5), (300, 300)])
def test_equals_all_pairs(seed, number, monkeypatch):
    rng = np.random.default_rng(seed)
    size = (70, 45, 90)
    spacing = rng.uniform(0.4, 3.0, 3)
    source, target = (np.sort(rng.choice(np.prod(size), k, replace=False)) for k in number)
    expected = brute_force(source, target, size, spacing)
    groups = [group_voxels(part, size, spacing) for part in (source, target)]
    assert nearest_distances(*groups, size, spacing) == pytest.approx(expected, rel=1e-12)
    # with a limit only the distances above it are promised
    limit = float(np.median(expected))
    bounded = nearest_distances(*groups, size, spacing, at_least=limit)
    above = expected > limit
    assert bounded[above] == pytest.approx(expected[above], rel=1e-12)
    assert (bounded[~above] <= limit * (1 + 1e-12)).all()
    # the way for very large sets
    monkeypatch.setattr(nearest, "_MOST_PAIRS", 0)
    assert nearest_distances(*groups, size, spacing) == pytest.approx(expected, rel=1e-12)


def test_many_cells_beyond_sixteen_bits_are_sorted():
    # cell numbers of a 2000 voxel long grid do not fit 16 bits; the result is the same
    size = (2000, 300, 300)
    index = np.array([0, 1999, 2000 * 300 * 299 + 5, np.prod(size) - 1])
    spacing = np.ones(3)
    group = group_voxels(index, size, spacing)
    assert nearest_distances(group, group, size, spacing).tolist() == [0, 0, 0, 0]
