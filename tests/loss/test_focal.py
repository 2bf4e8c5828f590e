import math

import pytest
import torch
from monai.losses import FocalLoss
from torch.nn import functional

from msseg_lightning.loss.focal import Focal


def test_value_by_hand():
    # q of a lesion voxel with logit ln 3 is 0.75: (1 - 0.75)^2 * -ln 0.75 = 0.0625 * 0.287682
    logits, lesion = torch.full((1, 1, 1, 1, 1), math.log(3)), torch.ones(1, 1, 1, 1, 1)
    assert Focal(2)(logits, lesion).item() == pytest.approx(0.0625 * 0.2876821)
    # the same logit on background: q = 0.25, 0.75^2 * -ln 0.25 = 0.5625 * 1.386294
    assert Focal(2)(logits, 1 - lesion).item() == pytest.approx(0.5625 * 1.3862944)
    assert Focal(2, lesion_share=0.25)(logits, lesion).item() == pytest.approx(
        0.25 * 0.0625 * 0.2876821
    )


def test_gamma_zero_is_cross_entropy_also_for_shared_votes():
    logits, target = torch.randn(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4)
    expected = functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(Focal(0)(logits, target), expected)


@pytest.mark.parametrize("share", [None, 0.25])
def test_agrees_with_monai(share):
    logits = torch.randn(2, 1, 4, 5, 6) * 3
    target = (torch.rand(2, 1, 4, 5, 6) > 0.7).float()
    theirs = FocalLoss(gamma=2.0, alpha=share)(logits, target)
    torch.testing.assert_close(Focal(2, share)(logits, target), theirs)


def test_confidently_wrong_keeps_its_gradient():
    logits = torch.full((1, 1, 1, 1, 1), -200.0, requires_grad=True)
    Focal(2)(logits, torch.ones(1, 1, 1, 1, 1)).backward()
    assert logits.grad.item() == pytest.approx(-1)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="below 0"):
        Focal(-1)
    with pytest.raises(ValueError, match="target"):
        Focal(2)(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 2, 2, 2))
