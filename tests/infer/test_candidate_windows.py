import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.candidates import Candidates, middle, window_around
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer.candidate_windows import CandidateWindows


class Sum(nn.Module):
    """Answers with the sum of its last channel; notes what it was given."""

    def __init__(self):
        super().__init__()
        self.seen, self.modes = [], []

    def forward(self, images):
        self.seen.append(images)
        self.modes.append(self.training)
        return images[:, -1].sum((1, 2, 3))[:, None] / 10


def volume():
    mask = np.zeros((20, 18, 16), bool)
    mask[0, 2, 2:5] = True
    mask[9:11, 9:11, 9] = True
    mask[17, 15, 12] = True
    images = np.random.default_rng(0).normal(size=(2, *mask.shape)).astype(np.float32)
    candidates = Candidates.of(mask, (1.0, 1.0, 1.0))
    return np.concatenate([images, mask[None]]).astype(np.float32), candidates


def test_every_candidate_has_the_score_of_the_window_around_it():
    images, candidates = volume()
    network, told = Sum().train(), []
    scores = CandidateWindows(6, batch_size=2)(
        network, images, candidates.boxes, lambda *step: told.append(step)
    )
    expected = [window_around(images, middle(box), (6, 6, 6)) for box in candidates.boxes]
    assert [len(windows) for windows in network.seen] == [2, 1] and told == [(2, 3), (3, 3)]
    np.testing.assert_array_equal(torch.cat(network.seen), np.stack(expected))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-candidates.sizes / 10)), rtol=1e-6)
    assert network.modes == [False, False] and network.training


def test_without_candidates_no_network_is_asked():
    network = Sum()
    assert CandidateWindows(6)(network, volume()[0], ()).shape == (0,) and not network.seen


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(MssegError) as refused:
        CandidateWindows(6, batch_size=0)
    assert refused.value.exit_code == ExitCode.CONFIG
