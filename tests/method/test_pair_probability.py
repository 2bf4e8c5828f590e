import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.method.pair_probability import PairProbability

SHAPE = (12, 10, 9)


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


def prepared(folder, baseline, followup, thick=1.0):
    affine = np.diag([1.0, 1.0, thick, 1.0])
    volumes = {BASELINE: Volume(baseline, affine), FOLLOWUP: Volume(followup, affine)}
    grid = volumes[BASELINE].grid
    loaded = LoadedSubject(LongitudinalSubject("a", "a", {}), volumes, Native(grid, b""))
    return PreparedSubject.write(loaded, folder)


@pytest.fixture
def scans():
    found = np.random.default_rng(0).normal(0, 1, (2, *SHAPE)).astype(np.float32)
    found[:, :2] = 0
    return found


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize("level", ["logit", "probability"])
def test_the_network_sees_both_visits(tmp_path, scans, level):
    pair = prepared(tmp_path / "a", *scans)
    image = PairProbability(SlidingWindow(8, overlap=0.5, level=level))(Difference(), pair)
    assert image.dtype == np.float32 and image.shape == SHAPE
    np.testing.assert_allclose(image[2:], sigmoid(scans[1] - scans[0])[2:], atol=1e-4)
    turned = PairProbability(SlidingWindow(8, overlap=0.5), (FOLLOWUP, BASELINE))
    np.testing.assert_allclose(turned(Difference(), pair)[2:], 1 - image[2:], atol=1e-4)


def test_a_network_that_asks_is_told_the_size_of_voxels(tmp_path, scans):
    pair = prepared(tmp_path / "a", *scans, thick=3.0)
    image = PairProbability(SlidingWindow(8, overlap=0.0))(Told(), pair)
    np.testing.assert_allclose(image[2:], sigmoid(3 * (scans[1] - scans[0]))[2:], atol=1e-4)


def test_nothing_is_found_where_all_is_0(tmp_path, scans):
    pair = prepared(tmp_path / "a", *(0 * scans))
    assert not PairProbability(SlidingWindow(8, overlap=0.0))(Difference(), pair).any()
