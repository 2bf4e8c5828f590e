import dataclasses

import numpy as np
import pytest

from msseg_lightning.core.candidates import Candidates, Proposal
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BRAIN, FOLLOWUP
from msseg_lightning.method.candidate_rules import AtLeastVoxels
from msseg_lightning.method.candidates import CandidateMethod, RuleChain
from tests.sample.conftest import prepare


@dataclasses.dataclass(frozen=True)
class Bright:
    """Proposes what is bright at the follow-up."""

    least: float = 2.5

    def __call__(self, pair):
        image = pair.image(FOLLOWUP)
        candidates = Candidates.of(image > self.least, pair.grid.spacing_mm)
        return Proposal(candidates, pair.mask(BRAIN), {"image": image})


@dataclasses.dataclass(frozen=True)
class Seen:
    """A rule that notes how many candidates it was asked about and keeps the larger half."""

    asked: list

    def __call__(self, pair, candidates):
        self.asked.append(len(candidates))
        return candidates.sizes > np.median(candidates.sizes)


class Cache:
    """Hands out one pair."""

    def __init__(self, pair):
        self.pair = pair

    def prepare(self, subjects):
        return [self.pair for _ in subjects]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("pair"), "p", 3, 0)


def test_rules_are_applied_in_order_to_what_is_left(pair):
    candidates = Bright()(pair).candidates
    asked = []
    judged = RuleChain({"size": AtLeastVoxels(5), "off": None, "seen": Seen(asked)})(
        pair, candidates
    )
    large = candidates.sizes >= 5
    assert 1 < large.sum() < len(candidates) and asked == [int(large.sum())]
    assert list(judged.maps) == ["size", "seen"]
    np.testing.assert_array_equal(judged.maps["size"], candidates.paint(large.astype(float)))
    expected = large & (candidates.sizes > np.median(candidates.sizes[large]))
    np.testing.assert_array_equal(judged.scores, expected)
    np.testing.assert_array_equal(judged.maps["seen"], candidates.paint(expected.astype(float)))
    other = RuleChain({"seen": Seen(asked), "size": AtLeastVoxels(5)})(pair, candidates)
    assert asked[-1] == len(candidates) and other.scores.tolist() != judged.scores.tolist()


def test_a_rule_is_not_asked_about_nothing(pair):
    asked = []
    chain = RuleChain({"size": AtLeastVoxels(10**6), "seen": Seen(asked)})
    judged = chain(pair, Bright()(pair).candidates)
    assert not asked and not judged.scores.any() and not judged.maps["seen"].any()


def test_the_prediction_is_what_the_judge_keeps_with_every_step(pair, tmp_path):
    method = CandidateMethod(Cache(pair), Bright(), RuleChain({"size": AtLeastVoxels(5)}))
    assert isinstance(method, Method)
    method.fit([], [], tmp_path)  # no training pair is needed
    found = method.predict(pair)
    candidates = Bright()(pair).candidates
    large = candidates.paint((candidates.sizes >= 5).astype(float))
    np.testing.assert_array_equal(found.mask, large)
    assert list(found.steps) == ["image", "proposed", "size"]
    np.testing.assert_array_equal(found.steps["proposed"], candidates.mask)
    np.testing.assert_array_equal(found.steps["size"], large)
    assert found.steps["image"].dtype == np.float32 and found.steps["size"].dtype == np.uint8
    np.testing.assert_array_equal(found.steps["image"], pair.image(FOLLOWUP))
    np.testing.assert_array_equal(found.inside, pair.mask(BRAIN))
    assert found.probability is None


def test_only_the_rules_that_were_saved_are_loaded(pair, tmp_path):
    def method(*rules):
        return CandidateMethod(Cache(pair), Bright(), RuleChain(dict(rules)))

    size, axis = ("size", AtLeastVoxels(5)), ("again", AtLeastVoxels(9))
    method(size, axis).save(tmp_path)
    method(size, axis).load(tmp_path)
    for other in ((axis, size), (size,), (size, ("again", AtLeastVoxels(8)))):
        with pytest.raises(MssegError, match="rule") as refused:
            method(*other).load(tmp_path)
        assert refused.value.exit_code == ExitCode.MODEL
