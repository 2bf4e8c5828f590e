import collections

import numpy as np
import pytest

from msseg_lightning.augment.slice_recipe import (
    Aspect,
    GaussianNoise,
    GridDistortion,
    RadialGradient,
    Rotate,
    ScaleCrop,
    SliceRecipe,
)
from msseg_lightning.augment.slices import SliceAugment
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume

SHAPE = (20, 24, 16)
INSIDE = "baseline_inside"
SPACE = SliceRecipe(
    aspect=Aspect(1.0, 1.0),
    rotate=Rotate(1.0),
    distort=GridDistortion(1.0),
    scale=ScaleCrop(1.0),
    flip=0.5,
    transpose=0.5,
)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory) -> PreparedSubject:
    """Both visits are the same linear ramp; the mask is where it exceeds a value."""
    x, y, z = np.indices(SHAPE).astype(np.float32)
    ramp = 2 + x + 2 * y + 3 * z
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    volumes = {
        BASELINE: Volume(ramp, affine),
        FOLLOWUP: Volume(ramp.copy(), affine),
        INSIDE: Volume(np.ones(SHAPE, np.float32), affine),
        TARGET: Volume((ramp > 60).astype(np.uint8), affine, "mask"),
    }
    loaded = LoadedSubject(
        LongitudinalSubject("s", "s", {}), volumes, Native(volumes[BASELINE].grid, b"")
    )
    return PreparedSubject.write(loaded, tmp_path_factory.mktemp("smooth") / "s")


def fill(
    subject,
    recipe,
    number=0,
    axis=2,
    depth=3,
    size=(12, 12),
    voxel=(10, 12, 8),
    names=(BASELINE, FOLLOWUP),
):
    images = np.full((len(names), depth, *size), np.nan, np.float32)
    labels = np.full((1, *size), np.nan, np.float32)
    generator = keyed_generator("fill", number)
    where = SliceAugment(recipe).fill_slices(
        subject,
        axis,
        np.array(voxel),
        True,
        names,
        (TARGET,),
        generator,
        images,
        labels,
    )
    return images, labels, where


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_channels_and_the_mask_move_alike(smooth, axis):
    """Inside the volume a ramp stays a ramp: the middle slice alone says where the mask is."""
    moved = 0
    for number in range(30):
        names = (BASELINE, FOLLOWUP, INSIDE)
        images, labels, _ = fill(smooth, SPACE, number, axis, names=names)
        np.testing.assert_allclose(images[0], images[1], rtol=1e-3, atol=1e-2)
        inside = images[2].min(0) > 0.999  # away from the 0 beyond the volume
        step = (1, 2, 3)[axis]  # of the ramp, across the slices
        for lower, upper in ((0, 1), (1, 2)):
            change = (images[0, upper] - images[0, lower])[inside]
            assert np.abs(np.median(change) - step) < 0.05
        clear = inside & (np.abs(images[0, 1] - 60) > 6)
        np.testing.assert_array_equal(labels[0][clear], (images[0, 1] > 60)[clear])
        moved += len(np.unique(images[0, 1].round(2))) > 60  # not on the lattice any more
    assert moved > 20


def test_intensity_is_drawn_for_each_visit(smooth):
    recipe = SliceRecipe(noise=GaussianNoise(0.5), radial=RadialGradient(0.5))
    plain, _, _ = fill(smooth, SliceRecipe())
    changed = {(False, False): 0, (False, True): 0, (True, False): 0, (True, True): 0}
    for number in range(80):
        plain, _, _ = fill(smooth, SliceRecipe(), number)
        images, labels, _ = fill(smooth, recipe, number)
        pair = tuple(bool(not np.allclose(images[visit], plain[visit])) for visit in (0, 1))
        changed[pair] += 1
        assert set(np.unique(labels)) <= {0, 1}
        if pair == (True, True):
            assert not np.allclose(images[0], images[1])
    assert min(changed.values()) >= 2  # each visit changes with 0.75, on its own
    assert changed[True, True] > changed[False, False]


def test_a_flip_and_a_transposition(smooth):
    """Of plain crops over one place: as it is or one axis flipped, either way round.

    The flip is one draw: with 0.3, 30 % of the stacks have one, half of them along each axis, and
    none is flipped along both.
    """
    recipe = SliceRecipe(flip=0.3, transpose=0.5)
    seen = collections.Counter()
    for number in range(600):
        images, _, _ = fill(smooth, recipe, number, depth=1, size=(20, 20), voxel=(10, 12, 8))
        plane = images[0, 0]
        slopes = (
            plane[1:, :].mean() - plane[:-1, :].mean(),
            plane[:, 1:].mean() - plane[:, :-1].mean(),
        )
        seen[tuple(np.rint(slopes).astype(int))] += 1
    one, other = (1, 2), (2, 1)
    signs = ((1, 1), (-1, 1), (1, -1))
    assert set(seen) == {(a * s, b * t) for a, b in (one, other) for s, t in signs}
    plain = seen[one] + seen[other]
    assert 0.64 < plain / 600 < 0.76  # 0.7, SD 0.019
    assert min(seen.values()) > 25  # 45 each, SD 6.5


def test_crops_that_are_not_square_are_not_transposed(smooth):
    images, _, _ = fill(smooth, SliceRecipe(transpose=1.0), depth=1, size=(8, 12))
    slope = images[0, 0, 1, 0] - images[0, 0, 0, 0]
    assert slope == pytest.approx(1, abs=1e-3)


def test_a_soft_label_stays_soft(tmp_path):
    soft = np.linspace(0, 1, 8 * 8 * 8, dtype=np.float32).reshape(8, 8, 8)
    volumes = {
        BASELINE: Volume(soft + 1, np.eye(4)),
        FOLLOWUP: Volume(soft + 1, np.eye(4)),
        TARGET: Volume(soft, np.eye(4), "probability"),
    }
    loaded = LoadedSubject(
        LongitudinalSubject("s", "s", {}), volumes, Native(volumes[BASELINE].grid, b"")
    )
    subject = PreparedSubject.write(loaded, tmp_path / "s")
    _, labels, _ = fill(subject, SliceRecipe(), axis=0, depth=1, size=(8, 8), voxel=(3, 4, 4))
    np.testing.assert_allclose(labels[0], soft[3], atol=1e-4)
