"""The learned metric in a loss is frozen and passes gradients."""

import pytest
import torch
from torch import nn

from msseg_lightning.loss.learned_metric import LearnedMetric, SquaredError
from msseg_lightning.loss.overlap import SoftDice
from tests.contracts import check_loss


class Overlap(nn.Module):
    """A stand-in whose answer can be worked out: scale times the mean of p * g."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, pair):
        product = (pair[:, 0] * pair[:, 1]).flatten(1).mean(1, keepdim=True)
        return self.dropout(self.scale * product)


def case():
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 4, 4, 4, requires_grad=True)
    return logits, (torch.rand(3, 1, 4, 4, 4) < 0.3).float()


def dice():
    return SoftDice(False, 1.0)


def test_the_formula():
    logits, target = case()
    loss = LearnedMetric(dice(), 0.2, Overlap())
    probability = 1 / (1 + torch.exp(-logits))
    estimate = 2 * (probability * target).flatten(1).mean(1)
    expected = dice()(logits, target) + 0.2 * (1 - estimate).mean()
    torch.testing.assert_close(loss(logits, target), expected)
    assert tuple(loss.agreement(logits, target).shape) == (3, 1)


def test_without_weight_it_is_the_overlap_loss():
    logits, target = case()
    for metric in (None, Overlap()):
        assert torch.equal(
            LearnedMetric(dice(), 0.0, metric)(logits, target), dice()(logits, target)
        )


def test_the_gradient_passes_through_a_frozen_network():
    logits, target = case()
    metric = Overlap()
    loss = LearnedMetric(dice(), 0.2, metric)
    (both,) = torch.autograd.grad(loss(logits, target), logits)
    (alone,) = torch.autograd.grad(dice()(logits, target), logits)
    probability = logits.sigmoid()
    own = -0.2 / 3 * 2 * target / 64 * probability * (1 - probability)
    torch.testing.assert_close(both, alone + own)
    assert bool((own != 0).any())
    assert metric.scale.grad is None and not metric.scale.requires_grad


def test_the_map_comes_first():
    """As in the pairs the metric learned from: prediction, then truth."""

    class First(nn.Module):
        def forward(self, pair):
            return pair[:, :1].flatten(1).mean(1, keepdim=True)

    logits, target = case()
    agreement = LearnedMetric(dice(), 0.2, First()).agreement(logits, target)
    torch.testing.assert_close(agreement[:, 0], logits.sigmoid().flatten(1).mean(1))


def test_the_metric_answers_as_in_evaluation_while_training():
    logits, target = case()
    loss = LearnedMetric(dice(), 0.2, Overlap()).train()
    holder = nn.ModuleList([loss]).train()
    assert holder.training and not loss.metric.dropout.training
    assert torch.equal(loss(logits, target), loss(logits, target))


def test_contract():
    check_loss(LearnedMetric(dice(), 0.2, Overlap()))


def test_a_missing_network_is_not_passed_over():
    logits, target = case()
    with pytest.raises(ValueError, match="metric network is missing"):
        LearnedMetric(dice(), 0.2)(logits, target)
    with pytest.raises(ValueError, match="alpha"):
        LearnedMetric(dice(), -0.1)


def test_squared_error():
    estimate = torch.tensor([[0.5], [1.0]], dtype=torch.bfloat16)
    value = SquaredError()(estimate, torch.tensor([[0.0], [0.5]]))
    assert value.dtype == torch.float32 and float(value) == 0.25
    with pytest.raises(ValueError, match="estimate"):
        SquaredError()(estimate, torch.zeros(2))
