import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.free_form import (
    MutualInformation,
    SplineField,
    cubic,
    cubic_slope,
    free_form,
    sample,
)

GRID = Grid(
    (21, 17, 14), np.diag([3.0, 3.0, 3.0, 1.0]) + np.array([[0, 0, 0, v] for v in (-30, -20, 7, 0)])
)


def test_the_cubic_spline_by_hand():
    """4/6 in its middle, 1/6 one unit away, 0 at two; 23/48 half a unit away."""
    place = np.array([0, 0.5, 1.0, -1.0, 2.0, 2.5])
    np.testing.assert_allclose(cubic(place), [4 / 6, 23 / 48, 1 / 6, 1 / 6, 0, 0], atol=1e-12)
    fine = np.linspace(-2.4, 2.4, 97)
    step = 1e-6
    slope = (cubic(fine + step) - cubic(fine - step)) / (2 * step)
    np.testing.assert_allclose(cubic_slope(fine), slope, atol=1e-6)


def test_a_field_is_what_itk_makes_of_the_same_control_points():
    field = SplineField.over(GRID, 20.0)
    numbers = keyed_generator("field").normal(size=field.coefficients.shape)
    field = SplineField(numbers, field.origin_mm, 20.0)
    images = []
    for part in numbers:
        image = sitk.GetImageFromArray(part.transpose(2, 1, 0))
        image.SetOrigin(field.origin_mm)
        image.SetSpacing([20.0] * 3)
        images.append(image)
    theirs = sitk.BSplineTransform(images, 3)
    found = field.on(GRID)
    for index in ((0, 0, 0), (20, 16, 13), (7, 3, 11)):
        world = GRID.affine[:3, :3] @ index + GRID.affine[:3, 3]
        moved = np.array(theirs.TransformPoint(world.tolist())) - world
        np.testing.assert_allclose(found[(slice(None), *index)], moved, atol=1e-9)


def test_sampling_and_its_slope():
    data = keyed_generator("image").normal(size=(6, 7, 8)).astype(np.float32)
    places = keyed_generator("places").uniform(-1, 7, (3, 400))
    values, slopes = sample(data, places)
    expected = ndimage.map_coordinates(data.astype(float), places, order=1, mode="nearest")
    np.testing.assert_allclose(values, expected, atol=1e-9)
    step = 1e-6
    for axis in range(3):
        ahead, behind = places.copy(), places.copy()
        ahead[axis] += step
        behind[axis] -= step
        numeric = (sample(data, ahead)[0] - sample(data, behind)[0]) / (2 * step)
        whole = np.abs(places[axis] - np.rint(places[axis])) < 1e-3  # a kink
        np.testing.assert_allclose(slopes[axis, ~whole], numeric[~whole], atol=1e-5)


def test_information_of_what_is_equal_and_of_what_is_not():
    """Two values equally often, far apart: ln 2 nats of themselves, 0 of a constant pattern."""
    fixed = np.tile([0.0, 0.0, 1.0, 1.0], 500)
    measure = MutualInformation(fixed, 0.0, 1.0, 40)
    assert measure(fixed)[0] == pytest.approx(np.log(2), abs=1e-6)
    assert measure(1 - fixed)[0] == pytest.approx(np.log(2), abs=1e-6)
    assert measure(np.tile([0.0, 1.0], 1000))[0] == pytest.approx(0, abs=1e-6)


def test_the_slope_of_information_is_its_derivative():
    generator = keyed_generator("values")
    fixed = generator.normal(size=600)
    moving = fixed + 0.5 * generator.normal(size=600)
    measure = MutualInformation(fixed, -3.0, 3.0, 20)
    _, slope = measure(moving)
    for number in range(0, 600, 60):
        step = np.zeros(600)
        step[number] = 1e-5
        numeric = (measure(moving + step)[0] - measure(moving - step)[0]) / 2e-5
        assert slope[number] == pytest.approx(numeric, rel=1e-4, abs=1e-9)


def test_a_known_bend_is_found():
    """Blobs moved by a smooth wave of 3 mm, and their brightness inverted."""
    smooth = ndimage.gaussian_filter(keyed_generator("blobs").normal(size=(32, 30, 28)), 2.0)
    data = (smooth / smooth.std()).astype(np.float32)
    grid = Grid(data.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    x, y, _ = np.meshgrid(*map(np.arange, data.shape), indexing="ij")
    wave = 1.5 * np.stack([np.sin(y / 5), np.cos(x / 6), np.zeros_like(x, float)])  # voxels
    places = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij")) + wave
    still = -ndimage.map_coordinates(data, places, order=1, mode="nearest")
    fields = free_form(
        Volume(still, grid.affine), Volume(data, grid.affine), np.eye(4), (20.0, 10.0), 25, 32
    )
    found = sum(field.on(grid) for field in fields)
    inner = (slice(None), *[slice(5, -5)] * 3)
    apart = np.abs(found - 2.0 * wave)[inner]
    assert apart.mean() < 0.25 * np.abs(2.0 * wave)[inner].mean()
