import numpy as np
import pytest
from scipy import ndimage, stats

from msseg_lightning.augment.intensity import (
    add_noise,
    along_first,
    blur,
    gaussian,
    legendre,
    normal_table,
    point,
    slice_matrix,
)


@pytest.mark.parametrize("shape", [(16, 12, 20), (3, 2, 5), (1, 7, 4)])
def test_blur_equals_scipy_even_where_the_kernel_is_longer_than_the_patch(shape):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sigma = (1.5, 0.6, 1.0)
    expected = ndimage.gaussian_filter(image.astype(float), sigma, mode="mirror", radius=[5, 2, 3])
    found = image.copy()
    blur(found, np.empty_like(found), *(gaussian(s) for s in sigma))
    assert np.abs(found - expected).max() < 1e-5


def test_gaussian_by_hand():
    # sigma 0.5: radius 2, weights 1, exp(-2), exp(-8)
    total = 1 + 2 * np.exp(-2) + 2 * np.exp(-8)
    assert np.allclose(gaussian(0.5), np.array([1, np.exp(-2), np.exp(-8)]) / total)
    assert gaussian(0).tolist() == [1]


def test_noise_is_normal_white_and_a_function_of_the_seed():
    found = np.zeros(300_000, np.float32)
    add_noise(found, normal_table(), 12345, 2.0)
    assert abs(found.mean()) < 0.02 and abs(found.std() - 2) < 0.02
    assert abs(stats.kurtosis(found)) < 0.05 and abs(stats.skew(found)) < 0.02
    assert stats.kstest(found / 2, "norm").statistic < 0.004
    for lag in (1, 2, 96, 96 * 96):
        assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < 0.01
    assert len(np.unique(found)) > 250_000
    again, other = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    add_noise(again, normal_table(), 12345, 2.0)
    add_noise(other, normal_table(), 12346, 2.0)
    assert np.array_equal(again, found[:1000])  # whatever the length of the patch
    assert abs(np.corrcoef(again, other)[0, 1]) < 0.1


def test_slices_by_hand():
    # 5 planes in slices of 2: {0,1} {2,3} {4}, centres 0.5, 2.5, 4
    planes = np.array([[0.0], [2.0], [4.0], [8.0], [10.0]], np.float32)
    out = np.empty_like(planes)
    along_first(planes, slice_matrix(5, 2, True), out)
    # slice means 1, 6, 10; plane 1 lies a quarter from 0.5 to 2.5, plane 3 a third from 2.5 to 4
    assert np.allclose(out[:, 0], [1, 1 + 5 / 4, 6 - 5 / 4, 6 + 4 / 3, 10])
    along_first(planes, slice_matrix(5, 3, False), out)
    assert np.allclose(out[:, 0], [1, 2, 14 / 3, 22 / 3, 9])
    assert np.allclose(slice_matrix(7, 4, True).sum(1), 1)
    assert slice_matrix(1, 3, True).tolist() == [[1]]


@pytest.mark.parametrize("gamma", [0.5, 0.7, 1.5, 3.0])
def test_gamma_keeps_the_range(gamma):
    image = np.random.default_rng(1).normal(size=(4, 5, 33)).astype(np.float32)
    low, high = float(image.min()), float(image.max())
    found = image.copy()
    rows = [legendre(length) for length in image.shape]
    point(found, gamma, low, high, *rows, np.zeros((0, 0, 0), np.float32), 1.0, 0.0)
    expected = ((image - low) / (high - low)) ** gamma * (high - low) + low
    assert np.abs(found - expected).max() < 2e-5 * (high - low)
    assert np.isclose(found.min(), low, atol=1e-5) and np.isclose(found.max(), high, atol=1e-5)


def test_bias_scale_and_shift():
    image = np.random.default_rng(1).normal(size=(6, 1, 9)).astype(np.float32)
    bias = np.random.default_rng(2).uniform(-0.3, 0.3, (4, 4, 4)).astype(np.float32)
    found = image.copy()
    point(found, 1.0, 0.0, 1.0, *(legendre(n) for n in image.shape), bias, 1.5, 0.25)
    axes = [np.linspace(-1, 1, 6), np.zeros(1), np.linspace(-1, 1, 9)]
    field = np.exp(np.polynomial.legendre.leggrid3d(*axes, bias.astype(float)))
    assert np.abs(found - (image * field * 1.5 + 0.25)).max() < 1e-4


def test_constant_patch_stays_finite():
    found = np.full((4, 4, 4), 2.0, np.float32)
    rows = [legendre(4)] * 3
    point(found, 0.7, 2.0, 2.0, *rows, np.zeros((0, 0, 0), np.float32), 1.0, 0.0)
    assert np.allclose(found, 2.0, atol=1e-5)
