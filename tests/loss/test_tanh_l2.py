import math

import pytest
import torch

from msseg_lightning.loss.tanh_l2 import TanhL2
from tests.contracts import check_loss


def test_by_hand():
    """x = 0 beside a lesion: (tanh 0 - 1)^2 = 1; x = 1 beside none: (tanh 1 + 1)^2."""
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    expected = (1 + (math.tanh(1) + 1) ** 2) / 2
    assert TanhL2()(2 * x, target) == pytest.approx(expected, rel=1e-6)
    assert TanhL2(2000)(2 * x, target) == pytest.approx(2000 * expected, rel=1e-6)


def test_the_targets_are_minus_one_and_one():
    """Only a saturated tanh of the right sign costs nothing; a mask of 0 and 1 would cost 1."""
    target = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert TanhL2()(torch.tensor([-40.0, 40.0]).view(1, 1, 1, 2), target) == pytest.approx(0)
    assert TanhL2()(torch.tensor([0.0, 40.0]).view(1, 1, 1, 2), target) == pytest.approx(0.5)
    assert TanhL2()(torch.tensor([40.0, -40.0]).view(1, 1, 1, 2), target) == pytest.approx(4)


def test_it_is_four_times_the_squared_error_of_probabilities():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 6, 6), torch.rand(2, 1, 6, 6)
    brier = (logits.sigmoid() - target).square().mean()
    assert TanhL2()(logits, target) == pytest.approx(4 * float(brier), rel=1e-5)


def test_contract():
    check_loss(TanhL2(2000))


def test_bad():
    with pytest.raises(ValueError, match="weight"):
        TanhL2(0)
    with pytest.raises(ValueError, match="target"):
        TanhL2()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
