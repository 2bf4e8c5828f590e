import numpy as np
import pytest

from msseg_lightning.core.candidates import (
    Candidates,
    merge_nearest_centre,
    middle,
    window_around,
)

SPACING = (1.0, 1.0, 2.0)


@pytest.fixture
def two():
    """A rod of three voxels near the border and a cube of eight."""
    mask = np.zeros((10, 9, 8), bool)
    mask[1, 1, 1:4] = True
    mask[5:7, 5:7, 4:6] = True
    return mask


def order(candidates):
    """Index of the rod and of the cube: the order of numbers carries no meaning."""
    return np.argsort(candidates.sizes)


def test_boxes_are_two_voxels_wider_and_end_with_the_volume(two):
    candidates = Candidates.of(two, SPACING, margin=2)
    rod, cube = order(candidates)
    assert len(candidates) == 2 and candidates.sizes[[rod, cube]].tolist() == [3, 8]
    assert candidates.boxes[rod] == (slice(0, 4), slice(0, 4), slice(0, 6))
    assert candidates.boxes[cube] == (slice(3, 9), slice(3, 9), slice(2, 8))
    assert candidates.within(cube).sum() == 8
    np.testing.assert_array_equal(candidates.mask, two)


def test_diagonal_neighbours_are_one_candidate_by_corners_only():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    found = [len(Candidates.of(mask, SPACING, connectivity)) for connectivity in (6, 18, 26)]
    assert found == [2, 2, 1]


def test_selection_counts_and_paint_stay_in_order(two):
    candidates = Candidates.of(two, SPACING)
    rod, cube = order(candidates)
    region = np.zeros(two.shape, bool)
    region[1, 1, 1:3] = region[5, 5, 4] = region[0, 0, 0] = True
    assert candidates.count_in(region)[[rod, cube]].tolist() == [2, 1]
    scores = np.empty(2, np.float32)
    scores[rod], scores[cube] = 0.25, 0.75
    painted = candidates.paint(scores)
    assert painted[1, 1, 2] == 0.25 and painted[6, 6, 5] == 0.75 and painted[0, 0, 0] == 0
    left = candidates.select(scores > 0.5)
    assert len(left) == 1 and left.sizes.tolist() == [8] and left.labels.max() == 1
    assert left.boxes == (candidates.boxes[cube],)


def test_no_candidates():
    none = Candidates.of(np.zeros((3, 4, 5), bool), SPACING)
    assert len(none) == 0 and none.sizes.shape == (0,)
    assert not none.paint(np.zeros(0)).any() and len(none.select(np.zeros(0, bool))) == 0


def test_of_two_boxes_a_voxel_takes_the_nearer_centre():
    """Boxes 0..5 and 4..9 of a rod: centres 2.5 and 6.5, so 4 is of the first and 5 of the second;
    voxel 10 lies in neither. In mm the second axis decides where voxels are long."""
    boxes = [(slice(0, 6), slice(0, 1), slice(0, 1)), (slice(4, 10), slice(0, 1), slice(0, 1))]
    values = [np.full((6, 1, 1), 0.2), np.full((6, 1, 1), 0.9)]
    found = merge_nearest_centre((11, 1, 1), boxes, values)
    expected = np.array([0.2] * 5 + [0.9] * 5 + [0.0], np.float32)
    np.testing.assert_array_equal(found[:, 0, 0], expected)
    turned = merge_nearest_centre((11, 1, 1), boxes[::-1], values[::-1], outside=-1.0)
    np.testing.assert_array_equal(turned[:10, 0, 0], expected[:10])
    assert turned[10, 0, 0] == -1

    long = [(slice(0, 3), slice(0, 1), slice(0, 1)), (slice(0, 3), slice(0, 1), slice(0, 3))]
    values = [np.full((3, 1, 1), 0.3), np.full((3, 1, 3), 0.6)]
    # the voxel (0, 0, 0) is 1 voxel from the first centre along x; of the second 1 and 1 voxel
    assert merge_nearest_centre((3, 1, 3), long, values)[0, 0, 0] == np.float32(0.3)
    shifted = [(slice(0, 5), slice(0, 1), slice(0, 1)), (slice(0, 1), slice(0, 1), slice(0, 5))]
    values = [np.full((5, 1, 1), 0.3), np.full((1, 1, 5), 0.6)]
    near_z = merge_nearest_centre((5, 1, 5), shifted, values, spacing_mm=(1.0, 1.0, 0.5))
    near_x = merge_nearest_centre((5, 1, 5), shifted, values, spacing_mm=(0.5, 1.0, 1.0))
    assert near_z[0, 0, 0] == np.float32(0.6) and near_x[0, 0, 0] == np.float32(0.3)


def test_a_window_lies_around_the_middle_and_is_0_beyond_the_volume():
    images = np.arange(2 * 6 * 5 * 4, dtype=np.float32).reshape(2, 6, 5, 4)
    box = (slice(1, 4), slice(0, 2), slice(3, 4))
    assert middle(box).tolist() == [2, 1, 3]
    even = window_around(images, middle(box), (2, 2, 2))
    np.testing.assert_array_equal(even, images[:, 1:3, 0:2, 2:4])
    odd = window_around(images, middle(box), (3, 3, 3))
    np.testing.assert_array_equal(odd[..., :2], images[:, 1:4, 0:3, 2:4])
    assert odd.shape == (2, 3, 3, 3) and not odd[..., 2].any()
    large = window_around(images, np.array([0, 0, 0]), (12, 12, 12))
    np.testing.assert_array_equal(large[:, 6:, 6:11, 6:10], images)
    assert large.sum() == images.sum()
