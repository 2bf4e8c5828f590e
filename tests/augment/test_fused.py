"""The fused engine against the plain slow way: scipy on whole volumes."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.parameters import NODE_STEP, Intensity, Parameters, draw
from msseg_lightning.augment.recipe import (
    Affine,
    BiasField,
    Blur,
    Elastic,
    Flip,
    Gamma,
    Noise,
    Recipe,
    Scale,
    Sharpen,
    Shift,
    ThickSlices,
)
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET

IMAGES = (BASELINE, FOLLOWUP, "baseline_ratio")
LABELS = (TARGET, BRAIN, "followup_lesions", "soft")
CENTRE = np.array([21.5, 25.5, 18.5])


def slow(volume, parameters, centre, size):
    """Linear interpolation by scipy at every position, 0 outside."""
    offset = np.indices(size).reshape(3, -1) - (np.reshape(size, (3, 1)) - 1) / 2
    place = parameters.matrix @ offset + np.reshape(centre + parameters.translation, (3, 1))
    if parameters.nodes is not None:
        at = np.indices(size).reshape(3, -1) / NODE_STEP
        for axis in range(3):
            place[axis] += ndimage.map_coordinates(
                parameters.nodes[..., axis].astype(float), at, order=1, mode="nearest"
            )
    place = np.where(np.abs(place - np.rint(place)) < 1e-9, np.rint(place), place)
    values = ndimage.map_coordinates(volume.astype(float), place, order=1, mode="constant")
    last = np.reshape(volume.shape, (3, 1)) - 1
    on_border = (np.minimum(np.abs(place), np.abs(place - last)) < 2e-3).any(0)
    values[on_border & (place != np.rint(place)).any(0)] = np.nan  # inside or outside by rounding
    return values.reshape(size)


def cut(pair, parameters, centre, size, images=IMAGES, labels=LABELS):
    image = np.full((len(images), *size), np.nan, np.float32)
    label = np.full((len(labels), *size), np.nan, np.float32)
    FusedAugment().apply(pair, centre, images, labels, parameters, image, label)
    return image, label


def plain(matrix=None, nodes=None):
    neutral = {name: Intensity() for name in ("baseline", "followup")}
    return Parameters(np.eye(3) if matrix is None else matrix, np.zeros(3), nodes, neutral)


def assert_equals_slow(pair, parameters, centre, size):
    image, label = cut(pair, parameters, centre, size)
    for name, found in zip(IMAGES, image, strict=True):
        expected = slow(pair.image(name), parameters, centre, size)
        error = np.abs(found - expected)[np.isfinite(expected)]
        assert error.size > 0.98 * found.size
        assert error.max() < 1e-3, name  # float32 positions
        assert error.mean() < 2e-5, name
    for name, found in zip(LABELS, label, strict=True):
        expected = slow(pair.label(name), parameters, centre, size)
        if name == "soft":
            assert np.nanmax(np.abs(found - expected)) < 1e-3
        else:
            assert set(np.unique(found)) <= {0, 1}
            sure = np.abs(expected - 0.5) > 1e-4
            assert (found == (expected >= 0.5))[sure].all(), name


@pytest.mark.parametrize("size", [(16, 16, 16), (24, 17, 31), (64, 60, 50), (9, 1, 12)])
@pytest.mark.parametrize("centre", [CENTRE, np.array([2.0, 50.0, 18.0]), np.array([43.0, 0, 37])])
def test_affine_equals_scipy(pair, size, centre):
    recipe = Recipe(
        flip=Flip(), affine=Affine(1.0, (25, 15, 30), (0.7, 1.3), shear=0.1, translation_mm=3)
    )
    parameters = draw(recipe, pair.grid, size, (), keyed_generator(1, *size))
    assert_equals_slow(
        pair,
        Parameters(parameters.matrix, parameters.translation, None, plain().visits),
        centre,
        size,
    )


@pytest.mark.parametrize("size", [(16, 16, 16), (24, 17, 31), (64, 60, 50)])
def test_elastic_equals_scipy(pair, size):
    recipe = Recipe(affine=Affine(1.0, (5, 5, 5)), elastic=Elastic(1.0, 12.0, (2.0, 3.0)))
    parameters = draw(recipe, pair.grid, size, (), keyed_generator(2))
    assert parameters.nodes is not None and np.abs(parameters.nodes).max() > 1
    parameters = plain(parameters.matrix, parameters.nodes)
    assert_equals_slow(pair, parameters, CENTRE, size)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_orientations_are_exact_and_the_label_follows(pair, order):
    """Patch axis k runs along volume axis order[k], with any flips; voxels are copied."""
    for signs in itertools.product((1, -1), repeat=3):
        matrix = np.eye(3)[:, order] * signs
        size, centre = (12, 16, 20), np.array([21.5, 25.5, 19.5])
        image, label = cut(pair, plain(matrix), centre, size)
        lengths = [size[order.index(axis)] for axis in range(3)]  # of the box in the volume
        starts = [int(c - (n - 1) / 2) for c, n in zip(centre, lengths, strict=True)]
        box = tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))
        turn = tuple(slice(None, None, sign) for sign in signs)
        for name, found in zip((*IMAGES, *LABELS), (*image, *label), strict=True):
            volume = pair.image(name) if name in IMAGES else pair.label(name)
            expected = volume[box].transpose(order)[turn]
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("signs", itertools.product((1, -1), repeat=3))
def test_flips_are_exact(pair, signs):
    image, label = cut(pair, plain(np.diag(signs).astype(float)), CENTRE, (20, 16, 12))
    box = tuple(slice(a, a + n) for a, n in zip((12, 18, 13), (20, 16, 12), strict=True))
    turn = tuple(slice(None, None, sign) for sign in signs)
    for name, found in zip(IMAGES, image, strict=True):
        assert np.array_equal(found, pair.image(name)[box][turn])
    for name, found in zip(LABELS, label, strict=True):
        assert np.array_equal(found, pair.label(name)[box][turn])


def test_exchanged_axes_and_borders_are_exact(pair):
    matrix = np.array([[0, -1.0, 0], [0, 0, 1], [1, 0, 0]])
    assert_equals_slow(pair, plain(matrix), np.array([21.5, 25.5, 18.5]), (60, 60, 60))
    assert_equals_slow(pair, plain(), np.array([3.5, 50.5, 36.5]), (16, 16, 16))
    image, label = cut(pair, plain(), np.array([500.5, 500.5, 500.5]), (8, 8, 8))
    assert not image.any() and not label.any()


def test_last_plane_is_not_lost(pair):
    """An aligned patch through the resampler still reaches the outermost voxels."""
    nearly = np.eye(3)
    nearly[0, 0] = 1 - 1e-8
    image, label = cut(pair, plain(nearly), CENTRE, pair.grid.shape)
    for name, found in zip(LABELS, label, strict=True):
        assert np.abs(found - pair.label(name)).max() < 1e-3
    assert np.abs(image[0] - pair.image(BASELINE)).max() < 1e-3


def test_names_and_order_are_free(pair):
    size = (10, 12, 14)
    matrix = np.array([[0.9, 0.1, 0], [-0.1, 1, 0], [0, 0, 1.1]])
    everything = dict(zip(IMAGES, cut(pair, plain(matrix), CENTRE, size)[0], strict=True))
    for names in [(FOLLOWUP,), (FOLLOWUP, BASELINE), ("baseline_ratio", FOLLOWUP)]:
        image, label = cut(pair, plain(matrix), CENTRE, size, names, ())
        assert label.shape[0] == 0
        for name, found in zip(names, image, strict=True):
            assert np.abs(found - everything[name]).max() < 1e-5
    with pytest.raises(Exception, match="no volume"):
        cut(pair, plain(), CENTRE, size, ("t1",), ())


@pytest.mark.parametrize("angle", [0.0, 0.1])
def test_a_name_may_come_twice(pair, angle):
    matrix = np.array([[1, angle, 0], [-angle, 1, 0], [0, 0, 1]])
    names = (BASELINE, BRAIN, BASELINE)
    image = np.full((3, 10, 12, 14), np.nan, np.float32)
    label = np.full((2, 10, 12, 14), np.nan, np.float32)
    parameters = Parameters(
        matrix, np.zeros(3), None, {name: Intensity() for name in ("baseline", "brain")}
    )
    FusedAugment().apply(pair, CENTRE, names, (BRAIN, BRAIN), parameters, image, label)
    assert np.array_equal(image[0], image[2]) and np.isfinite(image).all()
    assert np.array_equal(image[1], label[0]) and np.array_equal(label[0], label[1])


def test_flips_keep_target_on_the_image(pair):
    """The mirrored target marks the same intensities, wherever the patch lies."""
    recipe = Recipe(flip=Flip(), affine=Affine(1.0, (10, 10, 10)))
    for key in range(6):
        image = np.empty((2, 32, 32, 24), np.float32)
        label = np.empty((2, 32, 32, 24), np.float32)
        FusedAugment(recipe).fill(
            pair, CENTRE, (BASELINE, FOLLOWUP), (TARGET, BRAIN), keyed_generator(key), image, label
        )
        assert label[0].any()
        outside = ~ndimage.binary_dilation(label[1] == 1, np.ones((5, 5, 5)))
        assert np.abs(image[:, outside]).max(initial=0) == 0


def every_operation(probability=1.0, per_visit=True):
    return Recipe(
        thick_slices=ThickSlices(probability, per_visit=per_visit),
        blur=Blur(probability, per_visit=per_visit),
        sharpen=Sharpen(probability, per_visit=per_visit),
        noise=Noise(probability, (0.1, 0.2), per_visit=per_visit),
        gamma=Gamma(probability, per_visit=per_visit),
        bias_field=BiasField(probability, (-0.2, 0.2), per_visit=per_visit),
        scale=Scale(probability, per_visit=per_visit),
        shift=Shift(probability, per_visit=per_visit),
    )


def test_repeated_and_distinct(pair):
    """The same key gives the same bits; another key, visit or image another patch."""
    size = (16, 20, 24)

    def patch(key):
        image, label = np.empty((3, *size), np.float32), np.empty((1, *size), np.float32)
        FusedAugment(every_operation()).fill(
            pair, CENTRE, IMAGES, (TARGET,), keyed_generator(key), image, label
        )
        return image

    assert np.array_equal(patch(1), patch(1))
    assert not np.isclose(patch(1), patch(2)).any(axis=(1, 2, 3)).all()


def test_noise_differs_between_images_but_parameters_may_be_shared(pair):
    size = (32, 32, 24)
    noise = Recipe(noise=Noise(1.0, (0.2, 0.2), per_visit=False))
    image, label = np.empty((3, *size), np.float32), np.empty((0, *size), np.float32)
    FusedAugment(noise).fill(pair, CENTRE, IMAGES, (), keyed_generator(0), image, label)
    clean = cut(pair, plain(), CENTRE, size, IMAGES, ())[0]
    added = (image - clean).reshape(3, -1)
    assert np.allclose(added.std(1), 0.2, atol=0.005)
    assert np.abs(np.corrcoef(added) - np.eye(3)).max() < 0.03


def test_every_operation_together_equals_the_slow_way(pair):
    """Fixed order: thick slices, blur, sharpen, noise, gamma, bias field, scale and shift."""
    size = (21, 18, 16)
    visit = Intensity(
        thick_axis=2,
        thick_voxels=3,
        thick_interpolate=False,
        blur_sigma=(0.6, 0.9, 1.2),
        sharpen_amount=0.8,
        sharpen_sigma=0.7,
        gamma=1.3,
        bias=np.random.default_rng(0).uniform(-0.2, 0.2, (4, 4, 4)),
        scale=1.2,
        shift=-0.3,
    )
    parameters = Parameters(np.eye(3), np.zeros(3), None, {"baseline": visit})
    found = cut(pair, parameters, CENTRE, size, (BASELINE,), ())[0][0]
    x = cut(pair, plain(), CENTRE, size, (BASELINE,), ())[0][0].astype(float)

    def smooth(values, sigma):
        radius = [max(1, int(3 * s + 0.5)) for s in sigma]
        return ndimage.gaussian_filter(values, sigma, mode="mirror", radius=radius)

    padded = [x[..., max(0, k - 1) : k + 2].mean(-1) for k in range(size[2])]
    x = np.stack(padded, -1)
    x = smooth(x, visit.blur_sigma)
    x = x + 0.8 * (x - smooth(x, (0.7,) * 3))
    low, high = x.min(), x.max()
    x = ((x - low) / (high - low)) ** 1.3 * (high - low) + low
    axes = [np.linspace(-1, 1, length) for length in size]
    x = x * np.exp(np.polynomial.legendre.leggrid3d(*axes, visit.bias))
    x = x * 1.2 - 0.3
    assert np.abs(found - x).max() < 2e-4 * (x.max() - x.min())


def test_alter_changes_intensities_of_a_patch_and_moves_nothing(pair):
    size = (16, 12, 10)
    recipe = Recipe(flip=Flip(probability=1.0), gamma=Gamma(probability=1.0), noise=Noise(1.0))
    augment = FusedAugment(recipe)
    images = cut(pair, plain(), CENTRE, size, (BASELINE, FOLLOWUP), ())[0]
    found = np.ascontiguousarray(images.copy())
    names = ("first_flair", "second_flair")
    parameters = augment.alter(found, names, pair.grid, np.random.default_rng(1))
    again = np.ascontiguousarray(images.copy())
    augment.alter(again, names, pair.grid, np.random.default_rng(1))
    np.testing.assert_array_equal(found, again)
    assert parameters.visits["first"] != parameters.visits["second"]
    for before, after in zip(images, found, strict=True):
        assert not np.array_equal(before, after)
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    still = np.ascontiguousarray(images.copy())
    FusedAugment(Recipe(flip=Flip(probability=1.0))).alter(
        still, names, pair.grid, np.random.default_rng(1)
    )
    np.testing.assert_array_equal(still, images)
