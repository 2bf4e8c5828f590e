import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.method.probability_difference import ProbabilityDifference
from tests.method.scans import prepared

SHAPE = (20, 18, 16)


class Bright(nn.Module):
    """logit = slope * (x - 1)."""

    def __init__(self, slope=4.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images):
        return self.slope * (images - 1)


@pytest.fixture
def pair(tmp_path):
    generator = np.random.default_rng(0)
    scans = generator.normal(1, 1, (2, *SHAPE)).astype(np.float32)
    scans[:, :3] = 0  # nothing there
    return prepared(tmp_path / "a", **{BASELINE: scans[0], FOLLOWUP: scans[1]})


@pytest.mark.parametrize("level", ["logit", "probability"])
def test_it_is_the_difference_of_the_probabilities_of_both_visits(pair, level):
    window = SlidingWindow(8, overlap=0.5, level=level)
    image = ProbabilityDifference(window)(Bright(), pair)
    one, other = pair.image(BASELINE).astype(float), pair.image(FOLLOWUP).astype(float)
    sigmoid = lambda x: 1 / (1 + np.exp(-4 * (x - 1)))  # noqa: E731 - the formula of the network
    expected = sigmoid(other) - sigmoid(one)
    assert image.dtype == np.float32 and image.shape == SHAPE
    np.testing.assert_allclose(image[3:], expected[3:], atol=1e-5)
    assert image.min() >= -1 and image.max() <= 1 and image.min() < -0.5 < 0.5 < image.max()


def test_exchanged_visits_change_the_sign_and_another_network_the_image(pair):
    window = SlidingWindow(8, overlap=0.5)
    image = ProbabilityDifference(window)(Bright(), pair)
    turned = ProbabilityDifference(window, FOLLOWUP, BASELINE)(Bright(), pair)
    np.testing.assert_allclose(turned, -image, atol=1e-6)
    assert np.abs(ProbabilityDifference(window)(Bright(-1.0), pair) - image).max() > 0.5
    same = ProbabilityDifference(window, FOLLOWUP, FOLLOWUP)(Bright(), pair)
    assert not same.any()


def test_a_visit_without_any_voxel_has_no_lesions(tmp_path):
    scan = np.ones(SHAPE, np.float32)
    pair = prepared(tmp_path / "a", **{BASELINE: 0 * scan, FOLLOWUP: 2 * scan})
    image = ProbabilityDifference(SlidingWindow(8, overlap=0.5))(Bright(), pair)
    np.testing.assert_allclose(image, 1 / (1 + np.exp(-4.0)), atol=1e-4)
