"""Passes with dropout: they differ, their mean is the answer, nothing else is in training."""

import itertools

import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer.monte_carlo import MonteCarloDropout, dropout_on
from msseg_lightning.infer.sliding_window import SlidingWindow

WINDOW = SlidingWindow(4, overlap=0.0, level="probability")


class Noisy(nn.Module):
    """Dropout between two norms, one of each kind of state; counts its passes."""

    def __init__(self):
        super().__init__()
        self.norm, self.batch = nn.InstanceNorm3d(4, affine=True), nn.BatchNorm3d(4)
        self.spread = nn.Conv3d(1, 4, 1)
        self.dropout = nn.Dropout3d(0.5)
        self.head = nn.Conv3d(4, 1, 1)
        self.modes, self.maps = [], []

    def forward(self, images):
        features = self.batch(self.norm(self.spread(images)))
        answer = self.head(self.dropout(features))
        self.modes.append((self.norm.training, self.batch.training, self.dropout.training))
        self.maps.append(answer.detach().sigmoid())
        return answer


@pytest.fixture
def network():
    torch.manual_seed(3)
    return Noisy()


def test_passes_differ_and_their_mean_is_the_output(network):
    images = torch.randn(1, 4, 4, 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    mean, spread = MonteCarloDropout(WINDOW, 6).with_spread(network, images)
    maps = torch.stack(network.maps)[:, 0]
    assert len(maps) == 6
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(maps))
    torch.testing.assert_close(mean, maps.mean(0))
    torch.testing.assert_close(spread, maps.std(0, correction=0))
    assert set(network.modes) == {(False, False, True)}  # norms are as in evaluation
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_prediction_can_be_repeated_and_leaves_the_generator_alone(network):
    images = torch.randn(1, 6, 5, 4)
    rule = MonteCarloDropout(WINDOW, 3)
    state = torch.get_rng_state()
    first = rule(network, images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(rule(network, images), first)
    assert not torch.equal(MonteCarloDropout(WINDOW, 3, seed=1)(network, images), first)


def test_without_dropout_all_passes_agree(network):
    network.dropout.p = 0.0
    images = torch.randn(1, 4, 4, 4)
    mean, spread = MonteCarloDropout(WINDOW, 7).with_spread(network, images)
    assert not spread.any()
    torch.testing.assert_close(mean, WINDOW(network, images))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_returns_to_its_mode(network, training):
    network.train(training)
    MonteCarloDropout(WINDOW, 2)(network, torch.randn(1, 4, 4, 4))
    assert all(module.training is training for module in network.modules())
    with pytest.raises(RuntimeError), dropout_on(network):
        raise RuntimeError
    assert not network.dropout._forward_pre_hooks


def test_progress_counts_the_windows_of_all_passes(network):
    told = []
    rule = MonteCarloDropout(WINDOW, 2)
    rule(network, torch.randn(1, 8, 4, 4), progress=lambda done, all_: told.append((done, all_)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert rule.maps == 2 and rule.for_validation is WINDOW and rule.level == "probability"


def test_a_single_pass_is_refused():
    with pytest.raises(MssegError) as caught:
        MonteCarloDropout(WINDOW, 1)
    assert caught.value.exit_code == ExitCode.CONFIG
