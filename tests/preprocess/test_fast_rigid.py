import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.fast_rigid import (
    FAILURE_LOSS,
    about_centre,
    block_means,
    fast_rigid,
    rigid_matrix,
)
from msseg_lightning.preprocess.space import resample_array

CENTRE = np.array([48.0, 55.0, 45.0])


@pytest.fixture(scope="module")
def head():
    """A scan of 96 x 110 x 90 mm: smooth structure inside an ellipsoid."""
    shape = (96, 110, 90)
    random = np.random.default_rng(3)
    structure = ndimage.gaussian_filter(random.normal(size=shape), 4)
    grid = np.ogrid[tuple(slice(0, edge) for edge in shape)]
    inside = sum(((axis - c) / (0.8 * c)) ** 2 for axis, c in zip(grid, CENTRE, strict=True)) <= 1
    data = (100 + 40 * structure / structure.std()) * inside + random.normal(0, 3, shape)
    return Volume(data.astype(np.float32), np.eye(4)), inside


def moved(scan, way, affine, shape, field=0.0, new=0.0):
    """The scan as another visit sees it: moved, other voxels, coil field, gain and a lesion."""
    data = resample_array(scan.data, scan.affine, Grid(shape, affine), to_source=np.linalg.inv(way))
    data = data * np.exp(field * np.linspace(-1, 1, shape[0]))[:, None, None] * 2.3
    data[20:26, 20:26, 10:14] += new
    return Volume(data.astype(np.float32), affine)


def error_mm(found, true, inside):
    points = np.argwhere(inside)[::50].astype(float)
    gap = points @ (found - true)[:3, :3].T + (found - true)[:3, 3]
    return float(np.linalg.norm(gap, axis=1).mean())


@pytest.mark.parametrize("size", [4, 12, 20])
def test_a_known_motion_is_found_across_voxels_field_gain_and_a_new_lesion(head, size):
    scan, inside = head
    direction = np.array([0.6, -0.5, 0.62, -0.55, 0.7, 0.46])
    way = about_centre(rigid_matrix(direction * size * np.repeat([np.pi / 180, 1.0], 3)), CENTRE)
    affine = np.array([[0, 0, 2.0, -3], [1.1, 0, 0, 4], [0, -1.0, 0, 92], [0, 0, 0, 1]])
    moving = moved(scan, way, affine, (100, 100, 50), field=0.4, new=300.0)
    found, unlike = fast_rigid(scan, moving, [np.eye(4)])
    assert error_mm(np.eye(4), way, inside) > 0.5 * size
    assert error_mm(found, way, inside) < 0.1
    assert unlike < FAILURE_LOSS
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9)
    again, _ = fast_rigid(scan, moving, [np.eye(4)])
    np.testing.assert_array_equal(found, again)


def test_the_rim_of_a_mask_does_not_hold_the_scan_back(head):
    """A mask that stays while the head moves pulls towards standing still."""
    scan, inside = head
    way = about_centre(rigid_matrix(np.array([0.03, 0.02, -0.04, 1.5, -1.0, 2.0])), CENTRE)
    both = moved(scan, way, np.eye(4), scan.data.shape)
    still = Volume(both.data * inside, np.eye(4))
    masked = Volume(scan.data * inside, np.eye(4))
    mask = Volume(inside, np.eye(4), "mask")
    found, _ = fast_rigid(masked, still, [np.eye(4)], mask)
    held, _ = fast_rigid(masked, still, [np.eye(4)])
    assert error_mm(found, way, inside) < 0.3 * error_mm(held, way, inside)


def test_nothing_in_common_is_said(head):
    scan, _ = head
    other = np.random.default_rng(8).normal(size=scan.data.shape)
    _, unlike = fast_rigid(scan, Volume(np.float32(other), np.eye(4)), [np.eye(4)])
    assert unlike > FAILURE_LOSS
    _, unlike = fast_rigid(scan, Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), [np.eye(4)])
    assert unlike > FAILURE_LOSS
    _, unlike = fast_rigid(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), scan, [np.eye(4)])
    assert unlike > FAILURE_LOSS


def test_blocks_keep_their_place_and_mean():
    data = np.arange(4 * 9 * 6, dtype=np.int16).reshape(4, 9, 6)
    affine = np.array([[2.0, 0, 0, 1], [0, 1.0, 0, 5], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    small, placed = block_means(data, affine, 4.0)  # blocks of 2, and 9 // 4 at most, and 1
    assert small.shape == (4, 4, 6)  # no axis below four voxels
    np.testing.assert_allclose(small[0, 0], data[0, :2].mean(0))
    np.testing.assert_allclose(placed @ [0, 0, 0, 1], [1, 5.5, 7, 1])
    np.testing.assert_allclose(placed @ [1, 1, 1, 1], [3, 7.5, 11, 1])
