"""Two visits, each seen alone: what is in both is old, what only the later one has is new."""

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import MssegError
from msseg_lightning.infer.lesion_subtraction import LesionSubtraction
from msseg_lightning.infer.sliding_window import SlidingWindow

SHAPE = (24, 20, 16)


class Bright(nn.Module):
    """A lesion is what is brighter than 2; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(4.0))
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return self.slope * (images - 2)


def visits(earlier=(), later=()):
    """Tissue of brightness 1 with lesions of brightness 3, given as boxes."""
    images = torch.ones(2, *SHAPE)
    for image, boxes in zip(images, (earlier, later), strict=True):
        for box in boxes:
            image[box] = 3
    return images


def found(images, **settings):
    """Mask of the answer, and the answer."""
    window = SlidingWindow(8, overlap=0.5, level=settings.pop("level", "probability"))
    network = Bright()
    answer = LesionSubtraction(window, **settings)(network, images)
    assert answer.shape == (1, *SHAPE) and answer.dtype == torch.float32
    assert all(patch.shape[1] == 1 for patch in network.seen)
    return (answer[0] > 0.5).numpy(), answer[0]


OLD = (slice(2, 5), slice(2, 5), slice(2, 5))
NEW = (slice(12, 15), slice(12, 15), slice(9, 12))


def boxes(*chosen):
    mask = np.zeros(SHAPE, bool)
    for box in chosen:
        mask[box] = True
    return mask


@pytest.mark.parametrize("level", ["logit", "probability"])
def test_a_lesion_of_both_visits_yields_nothing_and_one_of_the_later_itself(level):
    mask, answer = found(visits([OLD], [OLD, NEW]), level=level)
    np.testing.assert_array_equal(mask, boxes(NEW))
    # the network's own probability there and in the voxel around it, 0 elsewhere
    assert answer[13, 13, 10].item() == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert answer[11, 13, 10].item() == pytest.approx(1 / (1 + np.exp(4)), abs=1e-6)
    assert answer[10, 13, 10] == 0 and answer[3, 3, 3] == 0


def test_a_lesion_that_vanished_or_a_pair_without_change_yields_nothing():
    assert not found(visits([OLD, NEW], [OLD]))[1].any()
    assert not found(visits([OLD], [OLD]))[1].any()


def test_a_lesion_that_grew_is_an_old_one_unless_voxels_are_subtracted():
    grown = (slice(2, 9), slice(2, 5), slice(2, 5))
    assert not found(visits([OLD], [grown]))[0].any()
    mask, _ = found(visits([OLD], [grown]), rule="voxels", dilation_voxels=0)
    np.testing.assert_array_equal(mask, boxes((slice(5, 9), slice(2, 5), slice(2, 5))))


@pytest.mark.parametrize(("dilation", "kept"), [(0, True), (1, True), (2, False)])
def test_earlier_lesions_reach_as_far_as_they_are_grown(dilation, kept):
    beside = (slice(6, 9), slice(2, 5), slice(2, 5))  # one voxel of healthy tissue between
    assert found(visits([OLD], [beside]), dilation_voxels=dilation)[0].any() == kept
    touching = (slice(5, 8), slice(5, 8), slice(5, 8))  # by a corner
    assert found(visits([OLD], [touching]), dilation_voxels=dilation)[0].any() == (dilation == 0)


@pytest.mark.parametrize(
    ("voxel_mm3", "voxels", "kept"), [(1.0, 10, True), (1.0, 9, False), (1.1, 9, False)]
)
def test_components_below_10_mm3_are_removed_before_the_subtraction(voxel_mm3, voxels, kept):
    """10 voxels of 1 mm3 stay, 9 of 1.1 mm3 (9.9) do not; in the earlier visit neither."""
    line = (slice(1, 1 + voxels), 4, 4)
    rule = LesionSubtraction(SlidingWindow(8, overlap=0.0, level="probability"), 10.0)
    assert rule.spacing_mm == (1.0, 1.0, 1.0)
    rule = rule.on_grid((voxel_mm3, 1.0, 1.0))
    assert rule.large(boxes(line)).any() == kept
    assert rule(Bright(), visits([], [line]))[0].gt(0.5).any().item() == kept
    # a small component of the earlier visit takes nothing away
    large = (slice(1, 12), slice(4, 6), 4)
    answer = rule(Bright(), visits([line], [large]))[0] > 0.5
    assert answer.any().item() != kept


def test_each_visit_is_seen_where_it_is_not_0_and_progress_counts_both():
    images = visits([], [NEW])
    images[0] = 0
    calls = []
    rule = LesionSubtraction(SlidingWindow(8, overlap=0.0, level="probability"))
    answer = rule(Bright(), images, torch.ones(SHAPE, dtype=torch.bool), lambda *n: calls.append(n))
    np.testing.assert_array_equal(answer[0] > 0.5, boxes(NEW))
    both = []
    rule(Bright(), visits(), None, lambda *n: both.append(n))
    assert both[-1][0] == both[-1][1] == 2 * calls[-1][0]


def test_settings_out_of_range_are_refused():
    window = SlidingWindow(8, overlap=0.0)
    for setting in ({"smallest_mm3": -1}, {"dilation_voxels": -1}, {"rule": "x"}, {"threshold": 1}):
        with pytest.raises(MssegError):
            LesionSubtraction(window, **setting)
    with pytest.raises(MssegError, match="connectivity"):
        LesionSubtraction(window, connectivity=8)
    with pytest.raises(ValueError, match="are not"):
        LesionSubtraction(window)(Bright(), torch.ones(1, *SHAPE))
