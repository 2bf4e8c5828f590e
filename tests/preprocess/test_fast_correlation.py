import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.preprocess.fast_correlation import (
    box_of,
    correlation_descent,
    gaussian_kernel,
    window_sums,
)
from msseg_lightning.preprocess.register import single_thread

SHAPE = (22, 20, 18)
RADIUS, STEP, SIGMA = 2, 0.5, 1.2


@pytest.fixture(scope="module")
def images():
    """An image, and itself moved by less than a voxel."""
    still = ndimage.gaussian_filter(keyed_generator("correlation").normal(size=SHAPE), 2) * 100
    moved = ndimage.shift(still, (0.6, -0.4, 0.3), order=1)
    return still.astype(np.float32), moved.astype(np.float32)


def block(*edges):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return mask


MASKS = {
    "in the middle": block((7, 15), (8, 12), (6, 12)),
    "at the border": block((0, 9), (8, 20), (3, 18)),
    "everywhere": block((0, 22), (0, 20), (0, 18)),
}


@single_thread()
def by_itk(still, moved, inside, field, iterations, sigma):
    """The same by SimpleITK's own metric and optimiser."""
    first, second = (sitk.GetImageFromArray(each.transpose(2, 1, 0)) for each in (still, moved))
    bent = sitk.DisplacementFieldTransform(
        sitk.GetImageFromArray(field.transpose(2, 1, 0, 3), isVector=True)
    )
    bent.SetSmoothingGaussianOnUpdate(sigma**2, 0.0)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsANTSNeighborhoodCorrelation(RADIUS)
    method.SetMetricFixedMask(sitk.GetImageFromArray(inside.transpose(2, 1, 0).astype(np.uint8)))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(
        learningRate=1.0,
        numberOfIterations=iterations,
        convergenceWindowSize=iterations + 1,
        estimateLearningRate=method.EachIteration,
        maximumStepSizeInPhysicalUnits=STEP,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(bent, inPlace=True)
    method.Execute(first, second)
    return sitk.GetArrayFromImage(bent.GetDisplacementField()).transpose(2, 1, 0, 3)


@pytest.mark.parametrize("sigma", [SIGMA, 0.0])
@pytest.mark.parametrize("mask", MASKS)
def test_displacements_are_those_of_itk(images, mask, sigma):
    start = np.zeros((*SHAPE, 3))
    still, moved = images
    theirs = by_itk(still, moved, MASKS[mask], start, 3, sigma)
    found = correlation_descent(still, moved, MASKS[mask], start, RADIUS, 3, STEP, sigma)
    assert np.abs(theirs).max() > STEP
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_it_goes_on_from_a_field_that_leaves_the_image_as_itk_does(images):
    x, y, z = np.indices(SHAPE)
    start = 1.5 * np.stack([np.sin(y / 3), np.cos(z / 4), np.sin(x / 5)], -1)
    mask = MASKS["everywhere"]
    still, moved = images
    theirs = by_itk(still, moved, mask, start, 2, SIGMA)
    found = correlation_descent(still, moved, mask, start, RADIUS, 2, STEP, SIGMA)
    assert np.abs(theirs - start).max() > STEP / 2
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_a_uniform_part_moves_nothing(images):
    """Its spread is rounding, by which the gradient would be divided."""
    still = np.full(SHAPE, 0.1, np.float32)
    start = np.full((*SHAPE, 3), 0.3)
    found = correlation_descent(
        still, images[1], MASKS["in the middle"], start, RADIUS, 2, STEP, SIGMA
    )
    np.testing.assert_array_equal(found, start)


def test_sums_of_neighbourhoods_end_at_the_border():
    values = keyed_generator("sums").normal(size=(5, 6, 4))
    slow = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        part = tuple(slice(max(0, at - 1), at + 2) for at in place)
        slow[place] = values[part].sum()
    np.testing.assert_allclose(window_sums(values, 1), slow, atol=1e-12)


def test_the_kernel_is_symmetric_and_has_its_variance():
    kernel = gaussian_kernel(9.0)
    places = np.arange(len(kernel)) - len(kernel) // 2
    np.testing.assert_allclose(kernel, kernel[::-1])
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * places**2).sum() == pytest.approx(9, rel=0.02)


def test_the_box_of_a_mask_ends_at_the_border():
    assert box_of(MASKS["at the border"], 2) == (slice(0, 11), slice(6, 20), slice(1, 18))
