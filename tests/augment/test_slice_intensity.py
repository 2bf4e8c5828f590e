import numpy as np
import pytest

from msseg_lightning.augment import slice_intensity as operations
from msseg_lightning.augment.slice_recipe import (
    BoxBlur,
    BrightnessContrast,
    CoarseSampling,
    GaussianNoise,
    KernelSharpen,
    LinearGradient,
    LocalEqualisation,
    RadialGradient,
    SliceRecipe,
)
from msseg_lightning.core.random import keyed_generator


def stack(*shape):
    return np.random.default_rng(0).normal(1, 0.3, shape or (3, 32, 32)).astype(np.float32)


def test_box_blur_by_hand():
    plane = np.zeros((1, 5, 5), np.float32)
    plane[0, 2, 2] = 9
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 1
    np.testing.assert_allclose(operations.box_blur(plane, 3)[0], expected, atol=1e-6)
    several = operations.box_blur(np.concatenate([plane, 0 * plane]), 3)
    assert not several[1].any()  # slices are not mixed


def test_coarse_sampling_by_hand():
    row = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    np.testing.assert_array_equal(operations.coarse(row, 0.5)[0, 0], [0, 0, 2, 2, 4, 4])
    np.testing.assert_array_equal(operations.coarse(row, 1.0), row)
    assert len(np.unique(operations.coarse(stack(1, 40, 1), 0.5))) == 20


def test_sharpen_by_hand():
    """A lone 1: its centre becomes (1 - a) + a (8 + l), its neighbours -a."""
    plane = np.zeros((1, 5, 5), np.float32)
    plane[0, 2, 2] = 1
    found = operations.sharpen(plane, 0.25, 1.0)[0]
    assert found[2, 2] == pytest.approx(0.75 + 0.25 * 9, rel=1e-5)
    assert found[1, 2] == pytest.approx(-0.25, rel=1e-5) and found[0, 0] == 0
    flat = np.full((2, 6, 6), 2, np.float32)
    np.testing.assert_allclose(operations.sharpen(flat, 0.5, 1.0), flat, rtol=1e-5)
    np.testing.assert_allclose(operations.sharpen(flat, 0.5, 0.5), 0.75 * flat, rtol=1e-5)


def test_equalisation_brings_out_what_is_faint_and_keeps_the_range():
    columns = np.linspace(0, 1, 128, dtype=np.float32)[None, None]
    faint = 0.1 * np.sin(np.arange(128) / 2, dtype=np.float32)[None, :, None]
    image = np.broadcast_to(columns + faint, (2, 128, 128)).astype(np.float32)
    image[0, 0, 0], image[0, 0, 1] = 5.0, -1.0
    found = operations.equalise(image, 4.0, 8)
    assert found.dtype == np.float32 and found.shape == image.shape
    assert found.min() >= -1 - 1e-4 and found.max() <= 5 + 1e-4
    assert found[1].std(0).mean() > 1.3 * image[1].std(0).mean()
    nothing = operations.equalise(
        image, 1.0, 8
    )  # no bin may exceed the mean: nothing is left to do
    np.testing.assert_allclose(nothing[1], image[1], atol=0.1)
    same = operations.equalise(np.stack([image[1]] * 2 + [image[0]]), 4.0, 8)
    np.testing.assert_allclose(same[0], same[1], atol=1e-3)  # slices are changed alike
    flat = np.ones((1, 16, 16), np.float32)
    np.testing.assert_array_equal(operations.equalise(flat, 2.0, 8), flat)


def test_brightness_and_contrast_by_hand():
    """On 0..1: 0, 0.5, 1. Brightness 0.8 gives 0, 0.4, 0.8; about its mean 0.4, half: 0.2..0.6."""
    row = np.array([0, 5, 10], np.float32).reshape(1, 1, 3)
    first = operations.brightness_contrast(row, 0.8, 0.5, brightness_first=True)
    np.testing.assert_allclose(first[0, 0], [2, 4, 6], rtol=1e-5)
    # the other way round: 0.25, 0.5, 0.75, then 0.2, 0.4, 0.6
    second = operations.brightness_contrast(row, 0.8, 0.5, brightness_first=False)
    np.testing.assert_allclose(second[0, 0], [2, 4, 6], rtol=1e-5)
    clipped = operations.brightness_contrast(row, 1.35, 1.0, brightness_first=True)
    np.testing.assert_allclose(clipped[0, 0], [0, 6.75, 10], rtol=1e-5)


def test_gradients_are_bumps_inside_the_crop():
    for number in range(50):
        generator = keyed_generator("gradient", number)
        amplitude = 0.3 if number % 2 else -0.3
        bump = operations.radial((40, 30), amplitude, generator)
        band = operations.linear((40, 30), amplitude, generator)
        for factors in (bump, band):
            assert factors.shape == (40, 30) and factors.dtype == np.float32
            change = (factors - 1) * np.sign(amplitude)
            assert change.min() >= -1e-6 and 0.2 < change.max() <= 0.3 + 1e-6
        rows, columns = np.ptp(band, 0).max() > 1e-6, np.ptp(band, 1).max() > 1e-6
        assert rows != columns  # along one axis only
        assert np.ptp(bump, 0).max() > 0.1 and np.ptp(bump, 1).max() > 0.1
    assert operations.radial((6, 6), 0.3, generator).shape == (6, 6)  # smaller than a gradient
    assert operations.linear((6, 6), 0.3, generator).shape == (6, 6)


ALONE = {
    "blur": BoxBlur(1.0),
    "coarse": CoarseSampling(1.0, (0.5, 0.9)),
    "sharpen": KernelSharpen(1.0, (0.2, 0.5)),
    "noise": GaussianNoise(1.0, (0.05, 0.1), (0.1, 0.2)),
    "equalise": LocalEqualisation(1.0),
    "brightness_contrast": BrightnessContrast(1.0),
    "radial": RadialGradient(1.0),
    "linear": LinearGradient(1.0),
}


@pytest.mark.parametrize("name", ALONE)
def test_each_operation_of_a_recipe_changes_the_stack_and_nothing_else(name):
    image = stack()
    before = image.copy()
    recipe = SliceRecipe(**{name: ALONE[name]})
    found = operations.apply(recipe, image, keyed_generator("apply"))
    np.testing.assert_array_equal(image, before)
    assert found.shape == image.shape and found.dtype == np.float32
    assert np.isfinite(found).all() and not np.allclose(found, image)
    again = operations.apply(recipe, image, keyed_generator("apply"))
    np.testing.assert_array_equal(found, again)


def test_probabilities():
    recipe = SliceRecipe(noise=GaussianNoise(0.2))
    image = stack(1, 4, 4)
    changed = [
        not np.array_equal(operations.apply(recipe, image, keyed_generator("p", n)), image)
        for n in range(1000)
    ]
    assert np.mean(changed) == pytest.approx(0.2, abs=0.04)


def test_noise_has_the_mean_and_spread_that_was_drawn():
    recipe = SliceRecipe(noise=GaussianNoise(1.0, (0.1, 0.1), (0.2, 0.2)))
    change = operations.apply(recipe, np.zeros((3, 64, 64), np.float32), keyed_generator("n"))
    assert change.mean() == pytest.approx(0.1, abs=0.01)
    assert change.std() == pytest.approx(0.2, abs=0.01)
    assert np.abs(np.corrcoef(change.reshape(3, -1))[0, 1]) < 0.05
