import math

import pytest
import torch
from torch.nn import functional

from msseg_lightning.loss.combined import WeightedSum
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.loss.top_k import TopKCrossEntropy
from tests.contracts import check_loss


def test_by_hand():
    """-log of 1/2, 1/2, 1/(1 + e), e/(1 + e): the two hardest cost 1.3133 and 0.6931."""
    logits = torch.tensor([0.0, 0.0, -1.0, 1.0]).view(1, 1, 2, 2)
    target = torch.tensor([0.0, 1.0, 1.0, 1.0]).view(1, 1, 2, 2)
    costs = [math.log(1 + math.e), math.log(2)]
    assert TopKCrossEntropy(0.5)(logits, target) == pytest.approx(sum(costs) / 2, rel=1e-6)
    everything = functional.binary_cross_entropy_with_logits(logits, target)
    assert TopKCrossEntropy(1.0)(logits, target) == pytest.approx(float(everything))


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 1, 7, 9), (3, 1, 5, 4), (2, 1, 4, 4, 4)])
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_gradient_reaches_exactly_the_hardest(shape, share):
    """S14: ceil(0.1 N) pixels of the whole batch have a gradient, and they are the costliest."""
    torch.manual_seed(0)
    logits = torch.randn(shape, requires_grad=True)
    target = (torch.rand(shape) < 0.1).float()
    TopKCrossEntropy(share)(logits, target).backward()
    count = -(-int(share * 100) * logits.numel() // 100)
    assert int((logits.grad != 0).sum()) == count
    costs = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").detach()
    assert costs[logits.grad != 0].min() >= costs[logits.grad == 0].max()


def test_ties_are_still_exactly_so_many():
    logits = torch.zeros(1, 1, 10, 10, requires_grad=True)
    TopKCrossEntropy(0.1)(logits, torch.zeros(1, 1, 10, 10)).backward()
    assert int((logits.grad != 0).sum()) == 10


def test_the_sum_with_dice_is_a_plain_sum():
    torch.manual_seed(1)
    logits, target = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) < 0.1).float()
    dice, top = SoftDice(False, 1.0, "batch"), TopKCrossEntropy()
    both = WeightedSum({"dice": dice, "top_k": top}, {"dice": 1, "top_k": 1})
    assert both(logits, target) == pytest.approx(
        float(dice(logits, target) + top(logits, target)), rel=1e-6
    )


def test_contract():
    check_loss(TopKCrossEntropy())


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_bad_share(share):
    with pytest.raises(ValueError, match="share"):
        TopKCrossEntropy(share)
