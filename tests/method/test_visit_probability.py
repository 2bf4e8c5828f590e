"""The probability map of a visit is made of the scans of that visit."""

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.method.visit_probability import VisitProbability
from tests.method.scans import SHAPE, noise, prepared, sigmoid


class Weighted(nn.Module):
    """logit = 100 t1 + 10 t2 + flair."""

    def __init__(self):
        super().__init__()
        weights = torch.tensor([100.0, 10.0, 1.0]).view(1, 3, 1, 1, 1)
        self.weights = nn.Parameter(weights)

    def forward(self, images):
        return (images * self.weights).sum(1, keepdim=True)


@pytest.fixture
def scans():
    return noise(3)


@pytest.mark.parametrize("level", ["logit", "probability"])
def test_the_name_of_the_image_says_which_visit(tmp_path, scans, level):
    pair = prepared(tmp_path / "a", **{BASELINE: scans[0], FOLLOWUP: scans[1]})
    maps = VisitProbability(SlidingWindow(8, overlap=0.5, level=level), ["t1", "t2", "flair"])
    for name, scan in (("baseline_probability", scans[0]), ("followup_probability", scans[1])):
        image = maps.for_image(name)(Weighted(), pair)
        assert image.dtype == np.float32 and image.shape == SHAPE
        np.testing.assert_allclose(image[2:], sigmoid(scan[2:]), atol=1e-4)


def test_every_contrast_has_its_channel(tmp_path, scans):
    visit = prepared(tmp_path / "a", followup_t2=scans[0] / 10, followup_flair=scans[1])
    maps = VisitProbability(SlidingWindow(8, overlap=0.0), ["t1", "t2", "flair"])
    image = maps.for_image("followup_probability")(Weighted(), visit)
    np.testing.assert_allclose(image[2:], sigmoid(scans[0] + scans[1])[2:], atol=1e-3)


def test_a_visit_without_a_scan_has_no_lesions(tmp_path, scans):
    pair = prepared(tmp_path / "a", **{BASELINE: scans[0], FOLLOWUP: 0 * scans[1]})
    maps = VisitProbability(SlidingWindow(8, overlap=0.0), ["t1", "t2", "flair"])
    assert not maps.for_image("followup_probability")(Weighted(), pair).any()
    assert not maps.for_image("third_probability")(Weighted(), pair).any()
