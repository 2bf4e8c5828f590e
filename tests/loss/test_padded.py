import pytest
import torch

from msseg_lightning.loss.cross_entropy import CrossEntropy
from msseg_lightning.loss.padded import PADDING, WithoutPadding
from tests.contracts import check_loss


def test_padding_changes_neither_value_nor_gradient():
    torch.manual_seed(0)
    loss = WithoutPadding(CrossEntropy())
    logits = torch.randn(2, 1, 4, 5, 6, requires_grad=True)
    target = torch.full_like(logits, PADDING)
    boxes = (slice(0, 4), slice(0, 3), slice(0, 2)), (slice(0, 2), slice(0, 5), slice(0, 6))
    rows = []
    for number, box in enumerate(boxes):
        target[(number, 0, *box)] = (torch.rand(target[(number, 0, *box)].shape) > 0.5).float()
        rows.append((logits[(number, 0, *box)].flatten(), target[(number, 0, *box)].flatten()))
    seen, true = (torch.cat(part) for part in zip(*rows, strict=True))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(seen, true)
    value = loss(logits, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    assert not logits.grad[target < 0].any() and logits.grad[target >= 0].all()


def test_padding_alone_costs_nothing():
    logits = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    value = WithoutPadding(CrossEntropy())(logits, torch.full_like(logits, PADDING))
    value.backward()
    assert value.item() == 0 and not logits.grad.any()


def test_without_padding_it_is_the_loss_itself():
    check_loss(WithoutPadding(CrossEntropy()))
