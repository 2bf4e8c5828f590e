import functools

import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.loss.cross_entropy import CrossEntropy
from msseg_lightning.train.padded import WITHIN, PaddedTask


def test_padding_changes_neither_value_nor_gradient():
    """Two boxes of 24 and 60 voxels: the mean is over 84, whatever stands around them."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, 4, 5, 6, requires_grad=True)
    target, within = torch.rand(2, 1, 4, 5, 6).round(), torch.zeros(2, 1, 4, 5, 6)
    boxes = (slice(0, 4), slice(0, 3), slice(0, 2)), (slice(0, 2), slice(0, 5), slice(0, 6))
    rows = []
    for number, box in enumerate(boxes):
        within[(number, 0, *box)] = 1
        rows.append((images[(number, 0, *box)].flatten(), target[(number, 0, *box)].flatten()))
    seen, true = (torch.cat(part) for part in zip(*rows, strict=True))
    assert len(seen) == 84
    expected = nn.functional.binary_cross_entropy_with_logits(seen, true)
    task = PaddedTask(nn.Identity(), CrossEntropy(), functools.partial(torch.optim.SGD, lr=1))
    value = task.step(Batch(images, target, ("a", "b"), torch.ones(2), {WITHIN: within})).loss
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    assert not images.grad[within == 0].any() and images.grad[within > 0].all()
