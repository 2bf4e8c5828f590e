from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.evaluate.foreground_runs import (
    content_hash,
    count_overlaps,
    describe_components,
    find_runs,
)


def test_runs_by_hand():
    mask = np.zeros((2, 2, 12), np.uint8)
    mask[0, 0, 10:12] = 1  # to the end of a row
    mask[0, 1, 0:3] = 1  # from the start of the next: another run
    mask[1, 1, 5] = 7
    runs = find_runs(mask)
    assert runs.start.tolist() == [10, 12, 41]
    assert runs.stop.tolist() == [12, 15, 42]
    assert runs.components == 3
    assert runs.total == 6


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 700), (700, 1, 1), (3, 1, 9), (33, 17, 5)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8, 1.0])
def test_components_equal_scipy(shape, order, share):
    rng = np.random.default_rng(sum(shape))
    mask = np.asarray(rng.random(shape) < share, order=order)
    runs = find_runs(mask)
    labels, count = ndimage.label(mask)
    assert runs.total == mask.sum()
    assert runs.components == count
    # every run lies in one component of scipy and the other way round
    memory = labels.ravel(order="F" if runs.x_fastest else "C")
    pairs = {(int(memory[a]), int(c)) for a, c in zip(runs.start, runs.component, strict=True)}
    assert len(pairs) == count
    covered = np.zeros(mask.size, bool)
    for a, b in zip(runs.start, runs.stop, strict=True):
        assert not covered[a:b].any()
        covered[a:b] = True
    assert (covered == (memory > 0)).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_components_are_numbered_by_size_then_file_order(order):
    mask = np.zeros((8, 8, 8), np.uint8, order=order)
    mask[0, 0, 5] = 1  # z = 5: late in file order
    mask[6, 2, 0] = 1  # z = 0: early, although x is large
    mask[3:5, 4, 4] = 1
    components = describe_components(find_runs(mask))
    assert components.voxels.tolist() == [2, 1, 1]
    assert components.centre.tolist() == [[3.5, 4, 4], [6, 2, 0], [0, 0, 5]]
    assert components.low[0].tolist() == [3, 4, 4]
    assert components.high[0].tolist() == [4, 4, 4]


def test_overlaps_equal_counting_voxels():
    rng = np.random.default_rng(2)
    masks = rng.random((2, 20, 11, 13)) < 0.25
    runs = [find_runs(mask) for mask in masks]
    components = [describe_components(one) for one in runs]
    rows, columns, shared = count_overlaps(
        runs[0], components[0].of_run, runs[1], components[1].of_run
    )
    assert shared.sum() == (masks[0] & masks[1]).sum()
    table = np.zeros((runs[0].components, runs[1].components), int)
    table[rows, columns] = shared
    painted = []
    for one, component in zip(runs, components, strict=True):
        flat = np.full(masks[0].size, -1)
        for a, b, c in zip(one.start, one.stop, component.of_run, strict=True):
            flat[a:b] = c
        painted.append(flat)
    both = (painted[0] >= 0) & (painted[1] >= 0)
    expected = np.zeros_like(table)
    np.add.at(expected, (painted[0][both], painted[1][both]), 1)
    assert (table == expected).all()


def test_unaligned_memory_is_read_right():
    buffer = np.zeros(4 * 5 * 6 + 3, np.uint8)
    mask = buffer[3:].reshape(4, 5, 6)
    mask[2, 3, 1:5] = 1
    assert find_runs(mask).total == 4


def test_the_hash_is_of_shape_and_voxels_and_not_of_the_layout():
    rng = np.random.default_rng(4)
    mask = rng.random((7, 5, 6)) < 0.2
    value = content_hash(find_runs(mask))
    assert content_hash(find_runs(np.asfortranarray(mask).astype(np.uint8) * 3)) == value
    other = mask.copy()
    other[3, 2, 1] ^= True
    assert content_hash(find_runs(other)) != value
    empty = np.zeros((4, 5, 6), bool)
    assert content_hash(find_runs(empty)) == content_hash(find_runs(np.asfortranarray(empty)))
    assert content_hash(find_runs(empty)) != content_hash(find_runs(empty.reshape(5, 4, 6)))
    # the same places in memory, but other voxels
    line = np.zeros((2, 2, 2), np.uint8)
    line[0, 0, 1] = 1
    assert content_hash(find_runs(line)) != content_hash(find_runs(line.T.copy()))
