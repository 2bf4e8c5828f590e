import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.simulate.warp import (
    LATTICE_MM,
    LATTICE_ORIGIN_MM,
    LATTICE_SHAPE,
    Warp,
    exponential,
    interpolate,
    lattice_points,
    random_velocity,
    rigid,
    smallest_jacobian,
)


@pytest.fixture(scope="module")
def velocity():
    generator = keyed_generator(0, "test")
    return random_velocity(generator, 24.0, 2.6) + random_velocity(generator, 9.0, 1.6)


def test_interpolation_of_a_linear_field_is_exact():
    field = lattice_points().astype(np.float32)
    points = np.array([[0.0, 1.0, 2.0], [10.3, -20.7, 33.1]])
    assert interpolate(field, points) == pytest.approx(points, abs=1e-4)


def test_border_value_outside():
    field = lattice_points().astype(np.float32)
    far = LATTICE_ORIGIN_MM + LATTICE_MM * (np.array(LATTICE_SHAPE) - 1)
    assert interpolate(field, np.array([[999.0, 999.0, 999.0]])) == pytest.approx(
        far[None], abs=0.01
    )


def test_constant_velocity_is_a_shift():
    field = np.zeros((*LATTICE_SHAPE, 3), np.float32)
    field[..., 1] = 3.0
    assert exponential(field) == pytest.approx(field, abs=1e-5)


def test_one_to_one_and_inverse(velocity):
    forward, back = exponential(velocity), exponential(-velocity)
    assert smallest_jacobian(forward) > 0.2
    points = keyed_generator(1, "points").uniform(-60, 60, (200, 3))
    moved = points + interpolate(forward, points)
    returned = moved + interpolate(back, moved)
    assert np.abs(returned - points).max() < 0.5
    assert np.abs(moved - points).max() > 2


def test_warp_inverts_itself(velocity):
    affine = rigid(np.array([3.0, -2.0, 5.0]), np.array([1.0, 2.0, -3.0]))
    warp = Warp(exponential(velocity), affine)
    points = keyed_generator(2, "points").uniform(-60, 60, (50, 3))
    assert warp.apply(warp.invert(points)) == pytest.approx(points, abs=0.01)


def test_rigid_by_hand():
    # a quarter turn about z sends x to y
    matrix = rigid(np.array([0, 0, 90.0]), np.array([0, 0, 7.0]))
    assert matrix @ [1, 0, 0, 1] == pytest.approx([0, 1, 7, 1], abs=1e-12)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)


def test_random_velocity_has_the_asked_size():
    field = random_velocity(keyed_generator(3, "size"), 20.0, 1.5)
    assert field.std() == pytest.approx(1.5, rel=1e-3)
