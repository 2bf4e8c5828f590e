import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.network import DeepLogits
from msseg_lightning.loss.deep_supervision import DeepSupervision
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.train.weighted import WeightedTask

DICE = SoftDice(squared_denominator=False, smooth=1.0)


def batch(weight) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 6, 6, 6, generator=generator)
    target = (torch.rand(4, 1, 6, 6, 6, generator=generator) > 0.8).float()
    return Batch(images, target, ("a",) * 4, torch.tensor(weight))


class Difference(nn.Module):
    def forward(self, images):
        return images[:, 1:] - images[:, :1]


class Deep(nn.Module):
    def forward(self, images):
        logits = images[:, 1:] - images[:, :1]
        return DeepLogits(logits, (nn.functional.avg_pool3d(logits, 2),))


def test_the_weighted_mean_of_the_paper():
    given = batch([1.0, 1 / 3, 1 / 3, 1 / 3])
    output = Difference()(given.images)
    one = [float(DICE(output[i : i + 1], given.target[i : i + 1])) for i in range(4)]
    assert max(one) - min(one) > 0.01
    expected = (one[0] + (one[1] + one[2] + one[3]) / 3) / (1 + 3 * (1 / 3))
    loss, logs = WeightedTask(Difference(), DICE, torch.optim.Adam).step(given)
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(loss) != pytest.approx(sum(one) / 4, abs=1e-4)
    assert float(logs["loss_full_weight"]) == pytest.approx(one[0], abs=1e-6)
    assert float(logs["loss_low_weight"]) == pytest.approx(sum(one[1:]) / 3, abs=1e-6)


def test_equal_weights_are_the_plain_loss():
    given = batch([1.0, 1.0, 1.0, 1.0])
    loss, logs = WeightedTask(Difference(), DICE, torch.optim.Adam).step(given)
    torch.testing.assert_close(loss, DICE(Difference()(given.images), given.target))
    assert float(logs["loss_low_weight"]) == 0


def test_a_loss_that_pools_over_the_batch_sees_each_element_alone():
    given = batch([1.0, 0.0, 0.0, 0.0])
    pooled = SoftDice(squared_denominator=False, smooth=1.0, reduction="batch")
    loss, _ = WeightedTask(Difference(), pooled, torch.optim.Adam).step(given)
    alone = DICE(Difference()(given.images)[:1], given.target[:1])
    torch.testing.assert_close(loss, alone)


def test_deep_supervision_is_cut_at_every_resolution():
    given = batch([0.0, 1.0, 0.0, 0.0])
    deep = DeepSupervision(DICE, [1, 0.5])
    loss, _ = WeightedTask(Deep(), deep, torch.optim.Adam).step(given)
    whole = Deep()(given.images)
    alone = DeepLogits(whole.logits[1:2], (whole.deeper[0][1:2],))
    torch.testing.assert_close(loss, deep(alone, given.target[1:2]))
