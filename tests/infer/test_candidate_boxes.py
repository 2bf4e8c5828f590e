import numpy as np
import torch
from torch import nn

from msseg_lightning.infer.candidate_boxes import CandidateBoxes


class First(nn.Module):
    """Answers with its first channel; notes what it was given."""

    def __init__(self):
        super().__init__()
        self.seen, self.modes = [], []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        self.modes.append(self.training)
        return images[:, :1]


def volume():
    inside = torch.zeros(12, 10, 8, dtype=torch.bool)
    inside[2, 2, 2:4] = True
    inside[8:10, 6, 5] = True
    return torch.randn(2, 12, 10, 8, generator=torch.Generator().manual_seed(0)), inside


def test_each_candidate_is_a_box_with_its_margin_and_nothing_else_is_asked():
    images, inside = volume()
    network, steps = First().train(), []
    found = CandidateBoxes()(network, images, inside, lambda *step: steps.append(step))
    assert sorted(network.seen) == [(1, 2, 5, 5, 6), (1, 2, 6, 5, 5)]
    assert network.modes == [False, False] and network.training
    assert steps == [(1, 2), (2, 2)]
    expected = torch.zeros(1, 12, 10, 8)
    for box in (np.s_[:, 0:5, 0:5, 0:6], np.s_[:, 6:12, 4:9, 3:8]):
        expected[box] = images[:1].sigmoid()[box]
    torch.testing.assert_close(found, expected)
    assert CandidateBoxes.level == "probability"


def test_of_overlapping_boxes_the_nearer_centre_counts():
    """Candidates at 3 and 6 of a rod, boxes 1..5 and 4..8: voxel 4 is nearer to 3, 5 to 6."""
    inside = torch.zeros(10, 1, 1, dtype=torch.bool)
    inside[3] = inside[6] = True
    answers = iter((-1.0, 1.0))

    class Numbered(nn.Module):
        def forward(self, images):
            return torch.full_like(images[:, :1], next(answers))

    found = CandidateBoxes()(Numbered(), torch.zeros(1, 10, 1, 1), inside)[0, :, 0, 0]
    low, high = torch.tensor([-1.0, 1.0]).sigmoid().tolist()
    expected = [0] + [low] * 4 + [high] * 4 + [0]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_corner_joins_two_candidates_unless_faces_are_asked_for():
    inside = torch.zeros(6, 6, 6, dtype=torch.bool)
    inside[2, 2, 2] = inside[3, 3, 3] = True
    for connectivity, boxes in ((26, 1), (6, 2)):
        network = First()
        CandidateBoxes(margin=0, connectivity=connectivity)(network, torch.ones(1, 6, 6, 6), inside)
        assert len(network.seen) == boxes


def test_without_candidates_the_map_is_empty():
    images, inside = volume()
    assert not CandidateBoxes()(First(), images, torch.zeros_like(inside)).any()
