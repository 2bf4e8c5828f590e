import itertools

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume


def rotation(degrees_x, degrees_y, degrees_z):
    turn = np.eye(3)
    for axis, degrees in enumerate((degrees_x, degrees_y, degrees_z)):
        angle = np.radians(degrees)
        one = np.eye(3)
        a, b = [other for other in range(3) if other != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    return turn


def make_affine(directions, spacing, origin=(-30.0, -25.0, -20.0)):
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


LPS = np.diag([-1.0, -1.0, 1.0])
LEFT_HANDED = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) @ np.diag([1, 1, -1])
AFFINES = {
    "canonical": (np.eye(3), (1.0, 1.0, 1.0), (44, 48, 40)),
    "oblique": (rotation(14, -9, 21), (1.0, 1.0, 1.0), (44, 48, 40)),
    "anisotropic": (LPS, (0.72, 0.72, 3.0), (60, 64, 14)),
    "left-handed": (LEFT_HANDED, (0.9, 1.1, 1.0), (46, 42, 44)),
    "oblique-anisotropic-left-handed": (
        rotation(8, 12, -10) @ np.diag([-1.0, 1.0, 1.0]),
        (0.8, 0.8, 2.0),
        (56, 58, 22),
    ),
}


def world_points(grid):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def centred(directions, spacing, shape):
    """A grid whose middle is the world's origin."""
    affine = make_affine(directions, spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def head(grid, way=None, seed=0):
    """Brightness of a lopsided head at the voxels of a grid: brain, two ventricles, a bright marker
    on the right side only. ``way`` moves grid world -> head world."""
    points = world_points(grid)
    if way is not None:
        points = points @ way[:3, :3].T + way[:3, 3]
    x, y, z = np.moveaxis(points, -1, 0)
    data = np.zeros(grid.shape, np.float32)
    brain = (x / 15) ** 2 + (y / 18) ** 2 + (z / 14) ** 2 < 1
    data[brain] = 100
    data[brain & (((x - 3) / 3) ** 2 + ((y - 2) / 8) ** 2 + (z / 5) ** 2 < 1)] = 30
    data[brain & ((x + 4) ** 2 + (y + 8) ** 2 + (z - 5) ** 2 < 9)] = 60
    data[(x - 9) ** 2 + (y - 6) ** 2 + (z - 2) ** 2 < 16] = 170
    noise = keyed_generator(seed, "noise").normal(0, 1.0, grid.shape) * brain
    return (ndimage.gaussian_filter(data, 0.5) + noise).clip(0).astype(np.float32), brain


def lesion(grid, way=None):
    """A mask on the right side, 7 mm across or more."""
    points = world_points(grid)
    if way is not None:
        points = points @ way[:3, :3].T + way[:3, 3]
    x, y, z = np.moveaxis(points, -1, 0)
    return ((x - 8) / 4) ** 2 + ((y + 4) / 5) ** 2 + ((z + 1) / 5) ** 2 < 1


def make_pair(grid, brain=True, identity="p1", size=1.0):
    """A pair on one grid: the follow-up has a new bright lesion. ``size`` enlarges the head."""
    way = np.diag([1 / size, 1 / size, 1 / size, 1.0])
    first, inside = head(grid, way, seed=1)
    second, _ = head(grid, way, seed=2)
    target = lesion(grid, way)
    second = np.where(target, 160, second).astype(np.float32)
    volumes = {
        BASELINE: Volume(first, grid.affine),
        FOLLOWUP: Volume(second, grid.affine),
        TARGET: Volume(target.astype(np.uint8), grid.affine, "mask"),
    }
    if brain:
        volumes[BRAIN] = Volume(inside, grid.affine, "mask")
    return LoadedSubject(LongitudinalSubject(identity, identity, {}), volumes, Native(grid, b""))


def dice(first, second):
    first, second = np.asarray(first) != 0, np.asarray(second) != 0
    return 2 * (first & second).sum() / (first.sum() + second.sum())


class Phantom:
    """Everything above, handed to tests as one fixture."""

    affines = tuple(AFFINES)
    rotation = staticmethod(rotation)
    head = staticmethod(head)
    lesion = staticmethod(lesion)
    dice = staticmethod(dice)
    pair = staticmethod(make_pair)
    world = staticmethod(world_points)

    @staticmethod
    def grid(name, size=1.0):
        directions, spacing, shape = AFFINES[name]
        return centred(directions, tuple(size * edge for edge in spacing), shape)

    @staticmethod
    def signed_permutations():
        for axes in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                yield np.eye(3)[:, list(axes)] @ np.diag(signs)


@pytest.fixture(scope="session")
def phantom():
    return Phantom
