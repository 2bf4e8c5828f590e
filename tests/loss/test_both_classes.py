import pytest
import torch
from monai.losses import GeneralizedDiceLoss

from msseg_lightning.loss.both_classes import BothClasses
from tests.contracts import check_loss


def generalised(**settings):
    settings = {"batch": True, "smooth_nr": 1e-9, "smooth_dr": 1e-9} | settings
    return BothClasses(GeneralizedDiceLoss(sigmoid=True, **settings))


def test_background_is_one_minus_lesion():
    seen = []

    class Keep(torch.nn.Module):
        def forward(self, logits, target):
            seen.extend((logits.sigmoid(), target))
            return logits.sum()

    logits, target = torch.randn(2, 1, 3, 4), torch.rand(2, 1, 3, 4)
    BothClasses(Keep())(logits.half(), target)
    probabilities, targets = seen
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 3, 4))
    torch.testing.assert_close(probabilities[:, 1:], logits.half().float().sigmoid())
    torch.testing.assert_close(targets, torch.cat([1 - target, target], dim=1))


def test_generalised_dice_by_hand():
    """Two patches of two pixels, one of four is lesion, all probabilities one half.

    Weights are 1 and 1/9. Hits are 0.5 and 1.5; sums of both sides 2 + 1 and 2 + 3:
    1 - 2 (0.5 + 1.5 / 9) / (3 + 5 / 9).
    """
    target = torch.tensor([1.0, 0, 0, 0]).view(2, 1, 1, 2)
    found = generalised()(torch.zeros(2, 1, 1, 2), target)
    assert found == pytest.approx(1 - 2 * (0.5 + 1.5 / 9) / (3 + 5 / 9), rel=1e-5)


def test_the_loss_is_finite_on_everything_a_patch_can_be():
    check_loss(generalised())
