import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.method.pair_probability import PairProbability
from tests.method.scans import SHAPE, noise, prepared, sigmoid


class Difference(nn.Module):
    """logit = slope * (followup - baseline), times the third edge of the voxels if it is told."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images):
        return self.slope * (images[:, 1:] - images[:, :1])


class Told(Difference):
    """One that asks for the size of voxels."""

    def on_grid(self, spacing_mm):
        return Difference(spacing_mm[2])


@pytest.fixture
def scans():
    return dict(zip((BASELINE, FOLLOWUP), noise(2), strict=True))


@pytest.mark.parametrize("level", ["logit", "probability"])
def test_the_network_sees_both_visits(tmp_path, scans, level):
    pair = prepared(tmp_path / "a", **scans)
    image = PairProbability(SlidingWindow(8, overlap=0.5, level=level))(Difference(), pair)
    assert image.dtype == np.float32 and image.shape == SHAPE
    np.testing.assert_allclose(image[2:], sigmoid(scans[FOLLOWUP] - scans[BASELINE])[2:], atol=1e-4)
    turned = PairProbability(SlidingWindow(8, overlap=0.5), (FOLLOWUP, BASELINE))
    np.testing.assert_allclose(turned(Difference(), pair)[2:], 1 - image[2:], atol=1e-4)


def test_a_network_that_asks_is_told_the_size_of_voxels(tmp_path, scans):
    pair = prepared(tmp_path / "a", thick=3.0, **scans)
    image = PairProbability(SlidingWindow(8, overlap=0.0))(Told(), pair)
    np.testing.assert_allclose(
        image[2:], sigmoid(3 * (scans[FOLLOWUP] - scans[BASELINE]))[2:], atol=1e-4
    )


def test_nothing_is_found_where_all_is_0(tmp_path, scans):
    pair = prepared(tmp_path / "a", **{name: 0 * scan for name, scan in scans.items()})
    assert not PairProbability(SlidingWindow(8, overlap=0.0))(Difference(), pair).any()


def test_nothing_is_asked_or_found_outside_a_region(tmp_path, scans):
    pair = prepared(tmp_path / "a", **scans)
    region = np.zeros(SHAPE, np.float32)
    region[4:7, 3:8, 2:6] = 0.6
    region[8:] = 0.4
    pair = pair.with_image("region_probability", region, tmp_path / "b")
    window = SlidingWindow(4, overlap=0.0)
    everywhere = PairProbability(window)(Difference(), pair)
    inside = PairProbability(window, region="region_probability")(Difference(), pair)
    np.testing.assert_array_equal(inside, np.where(region > 0.5, everywhere, 0))
    wide = PairProbability(window, region="region_probability", region_threshold=0.3)
    np.testing.assert_array_equal(
        wide(Difference(), pair), np.where(region > 0.3, everywhere, 0).astype(np.float32)
    )
