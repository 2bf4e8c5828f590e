"""Distances voxel by voxel and the smoothness of fields, by hand and by MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses.deform import DiffusionLoss

from msseg_lightning.loss.registration import (
    LocalCorrelation,
    SegmentationAndRegistration,
    Smoothness,
    SquaredDifference,
)
from msseg_lightning.network.joint_registration import RegisteredSegmentation


def images(shape=(2, 1, 3, 16, 18)):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def test_correlation_is_that_of_numpy_in_the_window_of_the_slice():
    one, other = images()
    apart = LocalCorrelation(9, noise=1e-3)(one, other)
    windows = [image[1, 0, 2, 3:12, 5:14].flatten().numpy() for image in (one, other)]
    expected = 1 - np.corrcoef(*windows)[0, 1] ** 2
    assert apart.shape == one.shape
    assert float(apart[1, 0, 2, 7, 9]) == pytest.approx(expected, abs=1e-4)


def test_slices_do_not_mix():
    one, other = images()
    distance = LocalCorrelation(9, noise=1e-3)
    before = distance(one, other)
    one[:, :, 0] = 0.3
    torch.testing.assert_close(distance(one, other)[:, :, 1:], before[:, :, 1:])


def test_brightness_and_contrast_do_not_count():
    one, _ = images()
    distance = LocalCorrelation(9, noise=1e-3)
    inner = (..., slice(4, -4), slice(4, -4))
    assert float(distance(one, 3 * one + 2)[inner].max()) < 1e-3
    assert float(distance(one, -one)[inner].max()) < 1e-3  # the square of -1


def test_noise_alone_is_no_difference():
    """Where nothing is seen nothing differs, and a structure without counterpart does."""
    generator = torch.Generator().manual_seed(0)
    one, other = (0.01 * torch.randn(1, 1, 1, 32, 32, generator=generator) for _ in range(2))
    distance = LocalCorrelation(9, noise=0.02)
    assert float(distance(one, other)[..., 4:-4, 4:-4].max()) < 0.05
    assert float(LocalCorrelation(9, noise=1e-4)(one, other)[..., 4:-4, 4:-4].mean()) > 0.9
    other[..., 14:18, 14:18] += 0.5
    assert float(distance(one, other)[..., 14:18, 14:18].min()) > 0.8
    assert float(distance(torch.zeros(1, 1, 1, 9, 9), torch.zeros(1, 1, 1, 9, 9)).max()) == 0


def test_the_squared_difference_is_a_map():
    one, other = images()
    torch.testing.assert_close(SquaredDifference()(one, other), (one - other) ** 2)


def test_smoothness_of_a_constant_and_of_a_slope():
    assert float(Smoothness()(torch.full((1, 3, 3, 8, 8), 2.5))) == 0
    field = torch.zeros(1, 2, 10, 10)
    field[:, 0] = 0.5 * torch.arange(10.0).view(-1, 1)
    # one of two components has the slope 0.5 along one of two axes
    assert float(Smoothness()(field)) == pytest.approx(0.5**2 / 2)
    assert float(Smoothness(spacing=2.0)(field)) == pytest.approx(0.25**2 / 2)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # inside MONAI
def test_smoothness_is_monais_within_the_borders():
    """The slopes of a field whose border is constant, by MONAI's own differences."""
    field = torch.zeros(1, 3, 8, 9, 10)
    field[..., 2:-2, 2:-2, 2:-2] = torch.randn(1, 3, 4, 5, 6)
    inside = 6 * 7 * 8 / (8 * 9 * 10)  # MONAI leaves one voxel out on every side
    torch.testing.assert_close(Smoothness()(field), inside * DiffusionLoss()(field))


def test_noise_of_zero_is_refused():
    with pytest.raises(ValueError, match="noise"):
        LocalCorrelation(9, noise=0.0)


def test_segmentation_and_registration_are_added():
    field = torch.zeros(1, 3, 4, 4, 4)
    field[:, 1] = 0.5 * torch.arange(4.0).view(-1, 1, 1)
    still = torch.full((1, 1, 4, 4, 4), 0.2)
    answer = RegisteredSegmentation(still * 0 + 2, field, still, still + 0.3)
    loss = SegmentationAndRegistration(torch.nn.BCEWithLogitsLoss(), SquaredDifference(), 0.01)
    parts = loss(answer, still * 0), loss.parts(answer, still * 0)
    expected = {
        "segmentation": np.log(1 + np.exp(2)),  # -log(1 - sigmoid(2))
        "distance": 0.09,
        "deformation": 0.01 * 0.25 / 3,  # one of three components has a slope, of 0.5
    }
    assert {name: float(part) for name, part in parts[1].items()} == pytest.approx(expected)
    assert float(parts[0]) == pytest.approx(sum(expected.values()))
    with pytest.raises(ValueError, match="smoothness"):
        SegmentationAndRegistration(torch.nn.BCEWithLogitsLoss(), SquaredDifference(), -0.01)
