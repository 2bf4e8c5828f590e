"""Old lesions come from the frozen network, new ones from the mask; their border costs nothing."""

from functools import partial

import pytest
import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.loss.cross_entropy import CrossEntropy
from msseg_lightning.train.lesion_fine_tuning import SURE_BACKGROUND, LesionFineTuning

SIZE = 11
OLD = (0, 0, slice(3, 5), slice(3, 5), slice(3, 5))
NEW = (0, 0, slice(5, 7), slice(3, 5), slice(3, 5))


class Linear(nn.Module):
    """logit = slope * (x - middle)."""

    def __init__(self, slope=4.0, middle=2.0):
        super().__init__()
        self.slope, self.middle = (nn.Parameter(torch.tensor(value)) for value in (slope, middle))
        self.calls = []

    def forward(self, images):
        self.calls.append(images.shape)
        return self.slope * (images - self.middle)


class Kept(nn.Module):
    """Keeps what a loss is given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, logits, target):
        self.given.append((logits.detach(), target))
        return 3.0 * logits.mean() ** 2 + (target.sum() if len(self.given) % 2 else 0)


@pytest.fixture
def batch():
    """An old lesion in both visits, a new one beside it at the second."""
    images = torch.ones(1, 2, SIZE, SIZE, SIZE)
    target = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    images[:, 0][OLD[1:]] = images[:, 1][OLD[1:]] = images[:, 1][NEW[1:]] = 3
    target[NEW] = 1
    return Batch(images, target, ("a",), torch.ones(1))


def task(loss=None, first=None, **settings):
    optimizer = partial(torch.optim.Adam, lr=0.1)
    made = first or Linear()
    return LesionFineTuning(Linear(-1.0, 0.0), loss or CrossEntropy(), optimizer, made, **settings)


def test_it_begins_with_the_weights_of_the_first_network_which_stays_as_it_is(batch):
    first = Linear(7.0, 1.5)
    made = task(first=first)
    assert made.network is not first
    assert made.network.slope.item() == 7.0 and made.network.middle.item() == 1.5
    made.train()
    assert made.network.training and not first.training
    made.step(batch).loss.backward()
    assert made.network.slope.grad is not None and first.slope.grad is None
    (groups,) = made.parameter_groups(made.network)
    assert {id(weight) for weight in groups["params"]} == {
        id(weight) for weight in made.network.parameters()
    }


def test_each_visit_is_seen_alone_and_has_its_target(batch):
    loss = Kept()
    made = task(loss)
    made.step(batch)
    one = torch.Size([1, 1, SIZE, SIZE, SIZE])
    assert made.network.calls == [one, one] and made.first.calls == [one]
    (earlier, old), (later, both) = loss.given
    expected = torch.zeros_like(old)
    expected[OLD] = 1
    assert torch.equal(old, expected)
    expected[NEW] = 1
    assert torch.equal(both, expected)
    # no answer within two voxels of an old lesion counts, but in lesions themselves
    ring = torch.zeros(one, dtype=torch.bool)
    ring[0, 0, 1:7, 1:7, 1:7] = True
    ring[OLD] = False
    assert torch.equal(earlier == SURE_BACKGROUND, ring)
    ring[NEW] = False
    assert torch.equal(later == SURE_BACKGROUND, ring)
    assert torch.equal(later[NEW], torch.full((8,), 4.0).view(2, 2, 2))


def test_the_earlier_visit_counts_half(batch):
    made = task()
    output = made.step(batch)
    logs = output.logs
    assert logs["earlier"] > 0 and logs["earlier"] != logs["later"]
    torch.testing.assert_close(output.loss, logs["later"] + 0.5 * logs["earlier"])
    assert logs["old_lesions"].item() == pytest.approx(8 / SIZE**3)
    other = task(baseline_weight=0.0).step(batch)
    torch.testing.assert_close(other.loss, logs["later"])


def test_the_ring_has_no_gradient(batch):
    """The images of the ring may change, the loss does not."""
    made = task(ring_voxels=1)
    before = made.step(batch).loss
    batch.images[0, 1, 2, 2, 2] = 30.0
    assert torch.equal(made.step(batch).loss, before)
    batch.images[0, 1, 1, 1, 1] = 30.0
    assert made.step(batch).loss > before + 0.01


def test_what_cannot_be_learned_from_is_refused(batch):
    with pytest.raises(ValueError, match="ring_voxels"):
        task(ring_voxels=-1)
    with pytest.raises(ValueError, match="two visits"):
        task().step(Batch(batch.images[:, :1], batch.target, ("a",), torch.ones(1)))
    with pytest.raises(ValueError, match="another layout"):
        task(first=nn.Conv3d(1, 1, 1))
    loaded = LesionFineTuning(Linear(), CrossEntropy(), partial(torch.optim.Adam, lr=0.1))
    with pytest.raises(AssertionError, match="loaded"):
        loaded.step(batch)
