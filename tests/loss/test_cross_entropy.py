import math

import pytest
import torch
from torch.nn import functional

from msseg_lightning.core.network import DeepLogits
from msseg_lightning.loss.combined import WeightedSum
from msseg_lightning.loss.cross_entropy import (
    BalancedCrossEntropy,
    CrossEntropy,
    LesionSizeCrossEntropy,
)
from msseg_lightning.loss.deep_supervision import DeepSupervision
from msseg_lightning.loss.overlap import SoftDice
from tests.contracts import check_loss


def test_value_by_hand():
    # p = 3/4 for a lesion, 1/4 for a background voxel: both cost -ln 3/4
    logits = torch.tensor([math.log(3), -math.log(3)]).view(1, 1, 2, 1, 1)
    target = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1)
    assert CrossEntropy()(logits, target).item() == pytest.approx(math.log(4 / 3))
    # (100 + 1) / 2 voxels / 2 classes
    weighted = CrossEntropy(lesion=100, mean_over_classes=True)(logits, target)
    assert weighted.item() == pytest.approx(math.log(4 / 3) * 101 / 4)


def test_equals_the_softmax_over_two_classes():
    both = torch.randn(2, 2, 4, 4, 4)
    target = (torch.rand(2, 4, 4, 4) > 0.8).long()
    expected = functional.cross_entropy(both, target)
    ours = CrossEntropy()(both[:, 1:] - both[:, :1], target[:, None].float())
    torch.testing.assert_close(ours, expected)


def test_s13_as_its_code_writes_it():
    """0.5 * mean over classes of -w mean(g log p) + 0.5 * mean over classes of 1 - Dice."""
    torch.manual_seed(0)
    loss = WeightedSum(
        {
            "logistic": CrossEntropy(1, 100, mean_over_classes=True),
            "dice": SoftDice(True, 1e-8, background=True),
        },
        {"logistic": 0.5, "dice": 0.5},
    )
    both = torch.randn(3, 2, 6, 6, 6)
    lesion = (torch.rand(3, 1, 6, 6, 6) > 0.9).float()
    p, g = both.softmax(1), torch.cat([1 - lesion, lesion], 1)
    logistic = -((g * p.log()).mean((2, 3, 4)) * torch.tensor([1.0, 100.0])).mean()
    overlap = 2 * (p * g).sum((2, 3, 4)) / (p.square() + g.square()).sum((2, 3, 4))
    expected = 0.5 * logistic + 0.5 * (1 - overlap).mean()
    torch.testing.assert_close(loss(both[:, 1:] - both[:, :1], lesion), expected)
    check_loss(loss)


def test_bad_settings():
    for wrong in ({"background": -1}, {"background": 0, "lesion": 0}):
        with pytest.raises(ValueError, match="weights"):
            CrossEntropy(**wrong)
    with pytest.raises(ValueError, match="target"):
        CrossEntropy()(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 1))


def test_a_lesion_weighs_as_much_as_all_background_up_to_a_limit():
    # p = 1/2 everywhere: 3 background voxels and a lesion of weight 3 cost ln 2 each
    logits = torch.zeros(1, 1, 4, 1, 1)
    target = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 4, 1, 1)
    loss = BalancedCrossEntropy()
    assert loss(logits, target).item() == pytest.approx(6 / 4 * math.log(2))
    assert BalancedCrossEntropy(2.0)(logits, target).item() == pytest.approx(5 / 4 * math.log(2))
    # 1 of 1000 voxels: 100, not 999; mostly lesions: as background; none: the plain loss
    many, rare = torch.zeros(1, 1, 10, 10, 10), torch.zeros(1, 1, 10, 10, 10)
    rare[0, 0, 0, 0, 0] = 1
    assert loss(many, rare).item() == pytest.approx((999 + 100) / 1000 * math.log(2))
    for same in (1 - target, torch.zeros_like(target)):
        torch.testing.assert_close(loss(logits, same), CrossEntropy()(logits, same))
    check_loss(loss)
    with pytest.raises(ValueError, match="below that of background"):
        BalancedCrossEntropy(0.5)
    with pytest.raises(ValueError, match="target"):
        loss(logits, many)


@pytest.mark.parametrize(("voxels", "weight"), [(5, 21.0), (500, 1.2), (1, 101.0), (None, 1.0)])
def test_a_voxel_weighs_the_more_the_smaller_its_lesion(voxels, weight):
    """p = 1/2: every voxel costs its weight times ln 2; kappa is 100."""
    logits, target = torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)
    if voxels:
        target[0, :, 0, 0, 0] = torch.tensor([1, 1 / voxels])
    found = LesionSizeCrossEntropy()(logits, target)
    assert found.item() == pytest.approx(weight * math.log(2), rel=1e-6)


def test_no_lesion_weighs_more_than_a_larger_one_and_what_surrounds_it_weighs_1():
    """V + kappa for each lesion, over the voxels of the patch; 1 / V goes on around a lesion."""
    loss, totals = LesionSizeCrossEntropy(10.0), []
    for voxels in (2, 5, 40):
        target = torch.zeros(1, 2, 100, 1, 1)
        target[0, 0, :voxels] = 1
        target[0, 1, : voxels + 3] = 1 / voxels
        found = loss(torch.zeros(1, 1, 100, 1, 1), target).item() * 100 / math.log(2)
        totals.append(found - (100 - voxels))
    assert totals == pytest.approx([12, 15, 50], rel=1e-5)


def test_weights_of_lesions_follow_the_target_to_every_resolution():
    class OneMap(torch.nn.Module):
        """The mask as the contract gives it, every lesion voxel a lesion of 4."""

        def __init__(self, loss):
            super().__init__()
            self.loss = loss

        def forward(self, logits, target):
            return self.loss(logits, torch.cat([target, 0.25 * torch.ones_like(target)], 1))

    check_loss(OneMap(LesionSizeCrossEntropy()))
    check_loss(OneMap(DeepSupervision(LesionSizeCrossEntropy(), [1, 0.5])), resolutions=2)
    target = torch.zeros(1, 2, 4, 2, 2)
    target[:, :, :2] = 1  # half of the patch, weight 1 + 3
    logits = DeepLogits(torch.zeros(1, 1, 4, 2, 2), (torch.zeros(1, 1, 2, 1, 1),))
    found = DeepSupervision(LesionSizeCrossEntropy(3.0), [1, 0.5])(logits, target)
    assert found.item() == pytest.approx(2.5 * math.log(2))
    for wrong in (target[:, :1], target[:, :, :2]):
        with pytest.raises(ValueError, match="target"):
            LesionSizeCrossEntropy()(logits.logits, wrong)
    with pytest.raises(ValueError, match="below 0"):
        LesionSizeCrossEntropy(-1.0)
