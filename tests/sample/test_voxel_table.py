"""Columns and rows of the table that boosted trees see (S01)."""

from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.sample.voxel_table import (
    PLACES,
    VoxelRows,
    feature_names,
    neighbour_features,
)

NAMES = ("baseline_flair", "followup_flair", "candidates")


def test_three_images_make_21_columns_in_this_order():
    names = feature_names(NAMES)
    assert len(names) == len(set(names)) == 21
    assert names[:7] == (
        "baseline_flair_here",
        "baseline_flair_left",
        "baseline_flair_right",
        "baseline_flair_posterior",
        "baseline_flair_anterior",
        "baseline_flair_inferior",
        "baseline_flair_superior",
    )
    assert names[7] == "followup_flair_here" and names[20] == "candidates_superior"


def test_a_row_holds_the_voxel_and_its_face_neighbours():
    x, y, z = np.indices((4, 5, 6))
    image = (100 * x + 10 * y + z).astype(np.float32)  # a value says where it is
    table = neighbour_features([image, image + 1000, image > 230], np.array([[2, 3, 4]]))
    assert table.dtype == np.float32 and table.shape == (1, 21)
    assert table[0, :7].tolist() == [234, 134, 334, 224, 244, 233, 235]
    assert table[0, 7:14].tolist() == [1234, 1134, 1334, 1224, 1244, 1233, 1235]
    assert table[0, 14:].tolist() == [1, 0, 1, 0, 1, 1, 1]


def test_at_the_border_a_neighbour_is_the_voxel_itself():
    x, y, z = np.indices((4, 5, 6))
    image = 100 * x + 10 * y + z
    table = neighbour_features([image], np.array([[0, 0, 0], [3, 4, 5]]))
    assert table[0].tolist() == [0, 0, 100, 0, 10, 0, 1]  # wrapping round would give 300, 40, 5
    assert table[1].tolist() == [345, 245, 345, 335, 345, 344, 345]


def test_offsets_are_the_six_faces():
    offsets = np.array([offset for _, offset in PLACES])
    assert np.abs(offsets).sum(1).tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert not offsets.sum(0).any()


def test_no_voxels_make_no_rows():
    empty = np.zeros((0, 3), np.int64)
    assert neighbour_features([np.zeros((2, 2, 2))], empty).shape == (0, 7)


@pytest.fixture
def masks():
    brain = np.zeros((10, 10, 10), bool)
    brain[1:9] = True  # 800 voxels
    candidates = np.zeros_like(brain)
    candidates[0:3, 0, 0] = True  # one of three outside the brain
    target = np.zeros_like(brain)
    target[2:5, 0, 0] = True  # one of three is a candidate
    return brain, candidates, target


def test_rows_are_all_lesions_all_candidates_and_a_share_of_the_rest(masks):
    brain, candidates, target = masks
    voxels, weight = VoxelRows(negative_ratio=0.25).fitting(*masks, 0, "p")
    assert len(voxels) == 4 + 199  # a quarter of 796 others
    taken = np.zeros_like(brain)
    taken[tuple(voxels.T)] = True
    assert taken.sum() == len(voxels) and not (taken & ~brain).any()
    assert taken[brain & (candidates | target)].all()
    sure = (candidates | target)[tuple(voxels.T)]
    assert set(weight[sure]) == {1.0} and set(weight[~sure]) == {4.0}
    assert weight.sum() == brain.sum()  # the rows stand for the whole brain
    plain = VoxelRows(negative_ratio=0.25, stand_in=False).fitting(*masks, 0, "p")
    np.testing.assert_array_equal(plain.voxels, voxels)
    assert set(plain.weight) == {1.0}


def test_the_draw_depends_on_its_key_alone(masks):
    rows = VoxelRows()
    first, again, other = (rows.fitting(*masks, 0, name).voxels for name in ("p", "p", "q"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_voxel_none_or_candidates_only(masks):
    brain, candidates, _ = masks
    np.testing.assert_array_equal(VoxelRows(1).fitting(*masks).voxels, np.argwhere(brain))
    assert len(VoxelRows(0).fitting(*masks).voxels) == 4
    only = VoxelRows(candidates_only=True)
    assert only.fitting(*masks).voxels.tolist() == [[1, 0, 0], [2, 0, 0]]
    assert only.predicting(brain, candidates).tolist() == [[1, 0, 0], [2, 0, 0]]
    np.testing.assert_array_equal(VoxelRows().predicting(brain, candidates), np.argwhere(brain))
    nowhere = np.zeros_like(brain)
    assert VoxelRows().fitting(nowhere, candidates, candidates).voxels.shape == (0, 3)


def test_a_share_is_one():
    with pytest.raises(ValueError, match="negative_ratio"):
        VoxelRows(negative_ratio=5)
