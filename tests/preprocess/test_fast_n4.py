import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.preprocess.bias import N4, itk_log_field
from msseg_lightning.preprocess.fast_n4 import Sharpening, Spline, basis, fast_log_field, product

SHAPE = (60, 72, 48)


@pytest.fixture(scope="module")
def biased():
    """Three tissues in an ellipsoid under a known field: image, mask, log field."""
    random = np.random.default_rng(2)
    grid = np.meshgrid(*[np.linspace(-1, 1, edge) for edge in SHAPE], indexing="ij")
    mask = sum(axis**2 for axis in grid) < 0.8
    classes = ndimage.gaussian_filter(random.normal(size=SHAPE), 3)
    tissue = np.select([classes < -0.03, classes < 0.03], [60.0, 110.0], 150.0)
    field = 0.3 * grid[0] - 0.25 * grid[1] ** 2 + 0.15 * grid[2] * grid[0]
    image = (tissue + random.normal(0, 3, SHAPE)) * mask * np.exp(field)
    return image.astype(np.float32), mask, field


def settings(levels=2):
    return {"iterations": (20,) * levels, "sharpening": Sharpening(), "convergence": 1e-3}


def test_the_field_is_found_as_well_as_by_itk(biased):
    image, mask, field = biased
    errors = {}
    for name, engine in (("fast", fast_log_field), ("itk", itk_log_field)):
        found = engine(image, mask, (2, 2, 2), control_points=4, **settings())
        errors[name] = float(np.std((found - field)[mask]))
    assert np.std(field[mask]) > 0.1
    assert errors["fast"] < 0.02 and errors["fast"] < 1.2 * errors["itk"]


def test_spline_weights_by_hand_and_sum():
    # one span: at its beginning (1, 4, 1, 0) / 6, in its middle (1, 23, 23, 1) / 48
    np.testing.assert_allclose(basis(np.array([0.0]), 4)[0], np.array([1, 4, 1, 0]) / 6, atol=1e-6)
    np.testing.assert_allclose(
        basis(np.array([0.5]), 4)[0], np.array([1, 23, 23, 1]) / 48, atol=1e-6
    )
    np.testing.assert_allclose(basis(np.linspace(0, 1, 31), 9).sum(1), 1, atol=1e-6)


def test_product_is_the_sum_written_out():
    random = np.random.default_rng(0)
    block = random.normal(size=(3, 4, 5)).astype(np.float32)
    matrices = [random.normal(size=(edge, 2)).astype(np.float32) for edge in block.shape]
    np.testing.assert_allclose(
        product(block, matrices), np.einsum("xyz,xa,yb,zc->abc", block, *matrices), rtol=1e-4
    )


def test_the_spline_follows_lee_wolberg_and_shin():
    """One sample: each control point is w * value / sum of w^2, as equation 3 of the paper says."""
    inside = np.zeros((5, 5, 5), bool)
    inside[2, 3, 1] = True
    spline = Spline(inside.shape, 4, inside)
    residual = np.where(inside, 2.0, 0.0).astype(np.float32)
    weights = np.einsum("a,b,c->abc", spline.bases[0][2], spline.bases[1][3], spline.bases[2][1])
    points = spline.fit(residual)
    np.testing.assert_allclose(points, weights * 2 / (weights**2).sum(), rtol=2e-4, atol=1e-6)
    assert spline.values(points)[2, 3, 1] == pytest.approx(2, rel=1e-4)


def test_sharpening_draws_a_blurred_tissue_together():
    random = np.random.default_rng(1)
    values = np.r_[random.normal(0, 0.06, 20000), random.normal(1, 0.06, 20000)]
    sharp = Sharpening()(values)
    for part, mean in ((slice(0, 20000), 0), (slice(20000, None), 1)):
        assert sharp[part].std() < 0.5 * values[part].std()
        assert abs(sharp[part].mean() - mean) < 0.01
    constant = np.full(10, 3.0)
    np.testing.assert_array_equal(Sharpening()(constant), constant)


def test_engines_are_a_setting_of_the_step(phantom):
    subject = phantom.pair(phantom.grid("oblique-anisotropic-left-handed"))
    fast, itk = (N4((20, 20), shrink=2, engine=name)(subject) for name in ("fast", "itk"))
    for name in (BASELINE, FOLLOWUP):
        one, two = (np.asarray(result.volumes[name].data) for result in (fast, itk))
        bright = two > np.percentile(two[two > 0], 40)
        assert np.std(one[bright] / two[bright]) < 0.03
        assert not np.array_equal(one, two)
    with pytest.raises(ValueError, match="fast or itk"):
        N4(engine="slow")
