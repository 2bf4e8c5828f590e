import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.space import (
    covering_grid,
    index_map,
    lattice_steps,
    resample_array,
    resample_volume,
)


def test_every_orientation_is_copied_bit_for_bit(phantom):
    generator = np.random.default_rng(0)
    data = generator.integers(0, 60000, (5, 6, 7)).astype(np.uint16)
    source = np.eye(4)
    source[:3, 3] = (3, -2, 5)
    for directions in phantom.signed_permutations():
        # a target lattice that holds the source with a margin of two voxels on each side
        shape = tuple(int(n) + 4 for n in np.abs(directions).T @ (5, 6, 7))
        affine = np.eye(4)
        affine[:3, :3] = directions
        affine[:3, 3] = source[:3, 3] + (np.array([5, 6, 7]) - 1) / 2
        affine[:3, 3] -= directions @ ((np.array(shape) - 1) / 2)
        there = resample_array(data, source, Grid(shape, affine))
        assert there.dtype == np.uint16
        assert there.sum() == data.sum()
        back = resample_array(there, affine, Grid((5, 6, 7), source))
        np.testing.assert_array_equal(back, data)


def test_shifted_window_keeps_only_the_overlap():
    data = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    affine = np.eye(4)
    affine[0, 3] = 2
    assert resample_array(data, np.eye(4), Grid((4, 1, 1), affine)).ravel().tolist() == [2, 3, 0, 0]
    affine[0, 3] = 9
    assert not resample_array(data, np.eye(4), Grid((4, 1, 1), affine)).any()


def test_linear_values_by_hand_and_half_a_voxel_beyond_the_edge():
    data = np.array([10.0, 20.0, 40.0], np.float32).reshape(3, 1, 1)
    affine = np.diag([0.5, 1, 1, 1.0])
    affine[0, 3] = -1.0
    # positions -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3
    expected = [0, 10, 10, 15, 20, 30, 40, 40, 0]
    values = resample_array(data, np.eye(4), Grid((9, 1, 1), affine)).ravel()
    np.testing.assert_allclose(
        values[[0, 2, 3, 4, 5, 6, 8]], np.array(expected)[[0, 2, 3, 4, 5, 6, 8]]
    )


def test_agrees_with_scipy_under_a_general_affine(phantom):
    generator = np.random.default_rng(1)
    data = ndimage.gaussian_filter(generator.normal(size=(44, 48, 40)), 1).astype(np.float32)
    source, grid = phantom.grid("oblique").affine, phantom.grid("left-handed")
    matrix = index_map(source, grid.affine)
    expected = ndimage.affine_transform(
        data, matrix[:3, :3], matrix[:3, 3], grid.shape, order=1, mode="constant"
    )
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    there = index @ matrix[:3, :3].T + matrix[:3, 3]
    within = ((there >= 0) & (there <= np.array(data.shape) - 1)).all(-1)
    assert within.any()
    np.testing.assert_allclose(
        resample_array(data, source, grid)[within], expected[within], atol=1e-5
    )


@pytest.mark.parametrize(("rule", "kind"), [("nearest", "mask"), ("soft", "probability")])
def test_mask_rules(rule, kind):
    mask = Volume(np.array([0, 1, 1, 0], np.uint8).reshape(4, 1, 1), np.eye(4), "mask")
    affine = np.eye(4)
    affine[0, 3] = 0.25
    moved = resample_volume(mask, Grid((3, 1, 1), affine), mask_rule=rule)
    assert moved.kind == kind
    expected = [0, 1, 1] if rule == "nearest" else [0.25, 1, 0.75]
    np.testing.assert_allclose(np.asarray(moved.data, float).ravel(), expected, atol=1e-6)
    hard = resample_volume(mask, Grid((3, 1, 1), affine))
    assert hard.kind == "mask" and hard.data.ravel().tolist() == [False, True, True]


def test_headers_rounded_to_float32_still_count_as_one_lattice(phantom):
    grid = phantom.grid("oblique-anisotropic-left-handed")
    rounded = grid.affine.astype(np.float32).astype(np.float64)
    assert lattice_steps(index_map(grid.affine, rounded), grid.shape) is not None
    turned = grid.affine.copy()
    turned[:3, :3] = phantom.rotation(0, 0, 0.05) @ turned[:3, :3]
    assert lattice_steps(index_map(grid.affine, turned), grid.shape) is None


def test_covering_grid_holds_every_corner(phantom):
    for name in phantom.affines:
        grid = phantom.grid(name)
        cover = covering_grid(grid, (1.0, 2.0, 1.5))
        assert cover.spacing_mm == (1.0, 2.0, 1.5)
        index = (grid.corners_mm() - cover.affine[:3, 3]) / (1.0, 2.0, 1.5)
        assert (index > -0.5).all() and (index < np.array(cover.shape) - 0.5).all()
