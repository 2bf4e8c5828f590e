"""The registration loss outside a map of non-correspondence, term by term."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from msseg_lightning.loss.deep_supervision import DeepSupervision
from msseg_lightning.loss.non_correspondence import TERMS, NonCorrespondence, boundary
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.loss.registration import LocalCorrelation, Smoothness, SquaredDifference

SHAPE = (2, 1, 3, 16, 16)


class Answer(NamedTuple):
    logits: torch.Tensor
    deeper: tuple[torch.Tensor, ...]
    velocities: tuple[torch.Tensor, ...]
    warped: tuple[torch.Tensor, ...]
    fixed: tuple[torch.Tensor, ...]


def answer(levels=1, logit=None):
    generator = torch.Generator().manual_seed(0)

    def random(channels, level):
        shape = (2, channels, 3, 16 // 2**level, 16 // 2**level)
        return torch.randn(shape, generator=generator)

    logits = [random(1, level) for level in range(levels)]
    if logit is not None:
        logits = [torch.full_like(each, logit) for each in logits]
    return Answer(
        logits[0],
        tuple(logits[1:]),
        tuple(random(3, level) for level in range(levels)),
        tuple(random(1, level) for level in range(levels)),
        tuple(random(1, level) for level in range(levels)),
    )


def test_without_a_map_it_is_a_plain_registration():
    """N = 0 everywhere and no price of it: the distance and the smoothness alone."""
    given = answer(logit=-100.0)
    distance = LocalCorrelation(9, noise=0.02)
    loss = NonCorrespondence(distance, alpha=0.3, beta=0.0, gamma=0.0)
    plain = distance(given.warped[0], given.fixed[0]).mean()
    plain = plain + 0.3 * Smoothness()(given.velocities[0])
    torch.testing.assert_close(loss(given), plain)


def test_what_is_marked_has_its_price_instead_of_its_distance():
    loss = NonCorrespondence(SquaredDifference(), alpha=0.0, beta=0.25, gamma=0.5)
    assert float(loss(answer(logit=100.0))) == pytest.approx(0.25)
    given = answer()
    marked = given.logits.sigmoid()
    apart = (given.warped[0] - given.fixed[0]).square()
    expected = ((1 - marked) * apart).mean() + 0.25 * marked.mean() + 0.5 * boundary(marked)
    torch.testing.assert_close(loss(given), expected)


def test_the_boundary_by_hand():
    """A step of height 1 between columns 3 and 4: central differences of 0.5 on both sides."""
    marked = torch.zeros(1, 1, 3, 8, 8)
    marked[..., 4:] = 1
    assert float(boundary(marked)) == pytest.approx(np.tanh(0.25) * 2 / 8, rel=1e-5)
    assert float(boundary(torch.ones(1, 1, 3, 8, 8))) == 0


def test_resolutions_are_weighted_and_their_slopes_measured_at_the_finest():
    given = answer(levels=3)
    weights = (0.7, 0.2, 0.1)
    loss = NonCorrespondence(SquaredDifference(), 0.5, 0.1, 0.01, weights)
    expected = torch.zeros(())
    logits = (given.logits, *given.deeper)
    for level, weight in enumerate(weights):
        single = Answer(
            logits[level],
            (),
            (given.velocities[level] / 2**level,),
            (given.warped[level],),
            (given.fixed[level],),
        )
        expected = expected + weight * NonCorrespondence(SquaredDifference(), 0.5, 0.1, 0.01)(
            single
        )
    torch.testing.assert_close(loss(given), expected)
    with pytest.raises(ValueError, match="3 resolutions"):
        NonCorrespondence(SquaredDifference(), 0.5, 0.1, 0.01)(given)


def test_labels_are_looked_at_by_one_more_term_or_not_at_all():
    given, target = answer(levels=2), torch.zeros(SHAPE)
    target[..., 4:8, 4:8] = 1
    settings = (SquaredDifference(), 0.5, 0.1, 0.01, (0.7, 0.3))
    alone = NonCorrespondence(*settings)
    assert tuple(alone.parts(given)) == TERMS
    assert float(alone(given, target)) == float(alone(given, 1 - target)) == float(alone(given))
    dice = SoftDice(squared_denominator=False, smooth=1e-5)
    taught = NonCorrespondence(*settings, overlap=DeepSupervision(dice, (0.7, 0.3)))
    parts = taught.parts(given, target)
    assert tuple(parts) == (*TERMS, "overlap")
    coarse = target[..., ::2, ::2]
    expected = 0.7 * dice(given.logits, target) + 0.3 * dice(given.deeper[0], coarse)
    torch.testing.assert_close(taught(given, target), alone(given) + expected)


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="below 0"):
        NonCorrespondence(SquaredDifference(), -1.0, 0.1, 0.1)
