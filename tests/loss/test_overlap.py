import math

import pytest
import torch
from monai.losses import DiceLoss

from msseg_lightning.loss.overlap import SoftDice


def patch(*values):
    """(1, 1, n, 1, 1)"""
    return torch.tensor(values).view(1, 1, -1, 1, 1)


def test_value_by_hand():
    # p = 0.5, 0.5, 0.75, 0.25 (logits 0, 0, ln 3, -ln 3), g = 1, 0, 1, 0
    logits = patch(0.0, 0.0, math.log(3), -math.log(3))
    target = patch(1.0, 0.0, 1.0, 0.0)
    # sum(pg) = 1.25, sum(p) + sum(g) = 2 + 2: 1 - (2.5 + 1) / (4 + 1) = 0.3
    assert SoftDice(False, smooth=1.0)(logits, target).item() == pytest.approx(0.3)
    # sum(p^2) = 0.25 + 0.25 + 0.5625 + 0.0625 = 1.125: 1 - 3.5 / (1.125 + 2 + 1) = 0.151515
    assert SoftDice(True, smooth=1.0)(logits, target).item() == pytest.approx(1 - 3.5 / 4.125)


def test_empty_patch_by_hand():
    # p = 0.5 on 4 voxels, g = 0: 1 - 1 / (2 + 1) = 2/3 with smooth 1, nearly 1 with a tiny one
    logits, target = patch(0.0, 0.0, 0.0, 0.0), torch.zeros(1, 1, 4, 1, 1)
    assert SoftDice(False, smooth=1.0)(logits, target).item() == pytest.approx(2 / 3)
    assert SoftDice(False, smooth=1e-5)(logits, target).item() == pytest.approx(1, abs=1e-5)
    assert SoftDice(False, smooth=1.0, empty="ignore")(logits, target).item() == 0
    # silence is right: the loss of an empty patch predicted empty is 0
    assert SoftDice(False, smooth=1.0)(logits - 50, target).item() == pytest.approx(0, abs=1e-6)


def test_ignored_empty_patches_leave_the_others_alone():
    lesion, logits = patch(1.0, 0.0), patch(0.3, -0.2)
    both = torch.cat([logits, logits]), torch.cat([lesion, torch.zeros_like(lesion)])
    loss = SoftDice(False, smooth=1.0, empty="ignore")
    torch.testing.assert_close(loss(*both), loss(logits, lesion))
    gradient = torch.autograd.grad(loss(both[0].requires_grad_(), both[1]), both[0])[0]
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


def test_batch_reduction_is_one_fraction():
    # patches (p, g) = (0.5; 1) and (0.5; 0), smooth 1.
    # per sample: 1 - 2 / 2.5 = 0.2 and 1 - 1 / 1.5 = 1/3; batch: 1 - (1 + 1) / (2 + 1) = 1/3
    logits, target = torch.zeros(2, 1, 1, 1, 1), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1)
    sample = SoftDice(False, 1.0)(logits, target).item()
    assert sample == pytest.approx((0.2 + 1 / 3) / 2)
    assert SoftDice(False, 1.0, "batch")(logits, target).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_agrees_with_monai(squared, batch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 5, 7, 3, generator=generator)
    target = (torch.rand(logits.shape, generator=generator) > 0.8).float()
    theirs = DiceLoss(sigmoid=True, squared_pred=squared, batch=batch)(logits, target)
    ours = SoftDice(squared, 1e-5, "batch" if batch else "sample")(logits, target)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_float32(dtype):
    """48^3 = 110,592 voxels of certainty: more than float16 can hold, more than bfloat16 counts."""
    logits, target = torch.full((1, 1, 48, 48, 48), 20, dtype=dtype), torch.ones(1, 1, 48, 48, 48)
    assert SoftDice(True, 1e-5)(logits, target.to(dtype)).item() == pytest.approx(0, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert SoftDice(True, 1e-5)(logits, target).item() == pytest.approx(0, abs=1e-5)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="0 by 0"):
        SoftDice(False, smooth=0)
    with pytest.raises(ValueError, match="unknown reduction"):
        SoftDice(False, 1.0, reduction="mean")
    with pytest.raises(ValueError, match="target"):
        SoftDice(False, 1.0)(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 4, 4, 4))


def test_an_answer_that_is_a_probability_is_taken_as_it_is():
    """p 1 and 0.5, g 1 and 0: 1 - (2 + 1) / (1.5 + 1 + 1) = 1/7; background (2 * .5 + 1) / 2.5."""
    answer, target = torch.tensor([[[[[1.0, 0.5]]]]]), torch.tensor([[[[[1.0, 0.0]]]]])
    plain = SoftDice(False, 1.0, activation="none")
    assert plain(answer, target).item() == pytest.approx(1 / 7)
    both = SoftDice(False, 1.0, background=True, activation="none")
    assert both(answer, target).item() == pytest.approx((1 / 7 + 1 - 2 / 2.5) / 2)
    with pytest.raises(ValueError, match="tanh"):
        SoftDice(False, 1.0, activation="tanh")
