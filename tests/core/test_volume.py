"""Lattices are compared by where their corners lie."""

from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.core.volume import Grid, Volume


def grid(scale=(1.0, 2.0, 3.0), shift=(0.0, 0.0, 0.0), shape=(4, 5, 6)):
    affine = np.diag([*scale, 1.0])
    affine[:3, 3] = shift
    return Grid(shape, affine)


def test_spacing_and_volume_of_an_oblique_left_handed_grid():
    angle = np.deg2rad(30)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.5, 0.98, 3.0])
    oblique = Grid((2, 2, 2), affine)
    assert oblique.spacing_mm == pytest.approx((0.5, 0.98, 3.0))
    assert oblique.voxel_volume_mm3 == pytest.approx(0.5 * 0.98 * 3.0)


def test_a_shift_displaces_every_corner_alike():
    assert grid().displacement_mm(grid(shift=(0, 3, 4))) == pytest.approx(5.0)


def test_a_stretch_displaces_the_far_corner_most():
    # far corner of axis 0 is 3 voxels away: 3 * 0.1 mm
    assert grid().displacement_mm(grid(scale=(1.1, 2.0, 3.0))) == pytest.approx(0.3)


def test_other_shapes_are_never_the_same():
    assert grid().displacement_mm(grid(shape=(4, 5, 7))) == float("inf")
    assert not grid().same_as(grid(shape=(4, 5, 7)))


def test_rounded_headers_are_the_same_and_a_mirrored_one_is_not():
    assert grid().same_as(grid(shift=(0.05, 0, 0)))
    assert not grid().same_as(grid(scale=(-1.0, 2.0, 3.0)))


def test_a_volume_knows_its_grid():
    volume = Volume(np.zeros((4, 5, 6)), grid().affine)
    assert volume.grid.same_as(grid())
    assert volume.spacing_mm == (1.0, 2.0, 3.0)
