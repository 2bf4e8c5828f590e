import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.simulate.acquire import (
    acquire,
    add_ghosts,
    centred_grid,
    point_spread,
    resample,
    smooth_field,
    voxel_points,
)
from msseg_lightning.simulate.scanner import SCANNERS


@pytest.mark.parametrize(
    ("spacing", "axis", "count"),
    [((1.0, 1.0, 1.0), 2, 8), ((0.5, 0.5, 3.0), 2, 2 * 2 * 6), ((3.0, 3.0, 3.0), 0, 27)],
)
def test_points_of_a_voxel(spacing, axis, count):
    points, weights = voxel_points(spacing, axis, 0.5)
    assert points.shape == (count, 3) and weights.sum() == pytest.approx(1)
    assert weights @ points == pytest.approx(np.zeros(3), abs=1e-12)  # centred
    assert np.abs(np.delete(points, axis, 1)).max() < 0.5
    assert points[0] == pytest.approx(-points[1])  # the pair that stands in outside the brain


def test_point_spread_keeps_the_mean_and_blurs():
    image = np.zeros((16, 16, 16), np.float32)
    image[8, 8, 8] = 1
    blurred = point_spread(image.copy(), SCANNERS["siemens_03"])
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert 0.02 < blurred[8, 8, 8] < 0.6
    assert blurred.min() < 0  # it rings


def test_thick_slices_are_not_blurred_across():
    image = np.zeros((16, 16, 6), np.float32)
    image[:, :, 3] = 1
    blurred = point_spread(image.copy(), SCANNERS["slices_02"])
    assert blurred == pytest.approx(image, abs=1e-4)


def test_noise_is_rician_in_air_and_gaussian_in_tissue():
    scanner = SCANNERS["siemens_02"]  # bias 0.14: uniform noise
    flat = np.full((40, 40, 40), 1.0, np.float32)
    again = acquire(flat.copy(), scanner, keyed_generator(0, "a"))
    air = acquire(flat * 0, scanner, keyed_generator(0, "a"))
    gain = air.mean() / (scanner.noise * np.sqrt(np.pi / 2))
    assert 0.6 * scanner.gain < gain < 1.6 * scanner.gain
    assert air.std() / air.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), abs=0.01)  # Rayleigh
    steps = np.diff(again, axis=0) / gain
    assert steps.std() / np.sqrt(2) == pytest.approx(scanner.noise, rel=0.05)


def test_same_generator_same_image():
    flat = np.full((8, 8, 8), 1.0, np.float32)
    scanner = SCANNERS["philips_04"]
    a = acquire(flat.copy(), scanner, keyed_generator(5, "x"), ghosting=0.03)
    b = acquire(flat.copy(), scanner, keyed_generator(5, "x"), ghosting=0.03)
    assert np.array_equal(a, b)


def test_smooth_field_is_smooth():
    field = smooth_field((20, 30, 26), keyed_generator(1, "field"))
    assert field.shape == (20, 30, 26) and np.abs(field).max() == pytest.approx(1)
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.35


def test_ghost_lies_where_it_should():
    image = np.zeros((20, 1, 1), np.float32)
    image[5] = 1
    ghosts = add_ghosts(image, 0, 0.1, 4)[:, 0, 0]
    assert ghosts[5] == pytest.approx(1)
    assert ghosts[9] == pytest.approx(0.1) and ghosts[1] == pytest.approx(0.06)


def test_grid_is_centred_and_even():
    grid = centred_grid((1.0, 2.0, 3.0), (21.0, 40.0, 33.0), (1.0, -2.0, 3.0))
    assert grid.shape == (20, 20, 12)
    assert grid.corners_mm().mean(0) == pytest.approx([1, -2, 3])


def test_resampling_half_a_voxel_averages():
    image = np.arange(6, dtype=np.float32).reshape(6, 1, 1)
    shift = np.eye(4)
    shift[0, 3] = 0.5
    assert resample(image, shift, (5, 1, 1)).ravel() == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5])
