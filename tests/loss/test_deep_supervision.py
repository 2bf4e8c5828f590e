import pytest
import torch
from torch import nn

from msseg_lightning.core.network import DeepLogits
from msseg_lightning.loss.deep_supervision import DeepSupervision, at_resolution


class MeanDifference(nn.Module):
    def forward(self, logits, target):
        assert logits.shape == target.shape
        return (logits - target).abs().mean()


def deep(*values):
    outputs = [torch.full((1, 1, *(8 // 2**i,) * 3), value) for i, value in enumerate(values)]
    return DeepLogits(outputs[0], tuple(outputs[1:]))


def test_weights_are_normalised_by_their_sum():
    # (1 * 4 + 0.5 * 2 + 0.25 * 8) / 1.75 = 7 / 1.75 = 4
    loss, target = DeepSupervision(MeanDifference()), torch.zeros(1, 1, 8, 8, 8)
    assert loss(deep(4.0, 2.0, 8.0), target).item() == pytest.approx(4)


def test_plain_logits_cost_the_loss_itself():
    loss, target = DeepSupervision(MeanDifference()), torch.zeros(1, 1, 8, 8, 8)
    assert loss(torch.full((1, 1, 8, 8, 8), 3.0), target).item() == 3


def test_target_keeps_zeros_and_ones():
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., 2, 2, 2] = 1  # first voxel of its cell: kept whole, not blurred to 1/8
    target[..., 1, 1, 1] = 1  # last voxel of its cell: gone
    coarse = at_resolution(target, (2, 2, 2))
    assert coarse.flatten().tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
    assert at_resolution(target, (4, 4, 4)) is target
    assert at_resolution(target, (4, 2, 1)).shape == (1, 1, 4, 2, 1)  # anisotropic levels


def test_misuse_is_refused():
    loss, target = DeepSupervision(MeanDifference()), torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ValueError, match="2 resolutions, 3 weights"):
        loss(deep(1.0, 2.0), target)
    with pytest.raises(ValueError, match="finest must count"):
        DeepSupervision(MeanDifference(), (0, 1))
