from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from monai.losses import DiceFocalLoss
from omegaconf import OmegaConf
from torch import nn

from msseg_lightning.loss.combined import WeightedSum
from msseg_lightning.loss.focal import Focal


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, logits, target):
        return (logits * 0).sum() + self.value


def test_sum_by_hand():
    loss = WeightedSum({"a": Constant(2.0), "b": Constant(5.0)}, {"a": 1, "b": 0.5})
    logits = torch.zeros(1, 1, 2, 2, 2)
    assert loss(logits, logits).item() == 4.5  # 1 * 2 + 0.5 * 5
    assert {k: v.item() for k, v in loss.parts(logits, logits).items()} == {"a": 2, "b": 5}


def test_names_must_match():
    with pytest.raises(ValueError, match="differ"):
        WeightedSum({"a": Focal(2)}, {"b": 1})
    with pytest.raises(ValueError, match="differ"):
        WeightedSum({}, {})


def test_preset_of_s12_equals_the_library_of_its_authors():
    preset = Path(__file__).parents[2] / "conf" / "loss" / "dice_focal_deep.yaml"
    loss = instantiate(OmegaConf.load(preset))
    logits = torch.randn(2, 1, 8, 8, 8)
    target = (torch.rand(2, 1, 8, 8, 8) > 0.9).float()
    theirs = DiceFocalLoss(sigmoid=True, squared_pred=True, gamma=2.0)(logits, target)
    torch.testing.assert_close(loss(logits, target), theirs)
