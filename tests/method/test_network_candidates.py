import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.candidates import Candidates
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.infer.candidate_windows import CandidateWindows
from msseg_lightning.method.candidate_rules import AtLeastVoxels
from msseg_lightning.method.network_candidates import AtLeastScore, NetworkCandidates
from msseg_lightning.method.network_method import Channels
from msseg_lightning.sample.candidate_windows import AboveThreshold
from msseg_lightning.train.task import Task
from tests.sample.conftest import SHAPE, prepare


class Risen(nn.Module):
    """A candidate is new where its mean rise, in its own voxels, is above a level."""

    def __init__(self, level=1.5):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(float(level)))

    def forward(self, images):
        mask = images[:, 2:]
        rise = ((images[:, 1:2] - images[:, :1]) * mask).sum((2, 3, 4)) / mask.sum((2, 3, 4))
        return 4 * (rise - self.level)


class Cache:
    """Hands out one pair."""

    def __init__(self, pair):
        self.pair = pair

    def prepare(self, subjects):
        return [self.pair for _ in subjects]


@pytest.fixture
def pair(tmp_path):
    """A true candidate of 27 voxels, a false one of 27 and a false one of 8."""
    made = prepare(tmp_path, "a", 1, 0)
    found = 0.8 * made.mask(TARGET)
    found[5:8, 28:31, 16:19] = found[20:22, 5:7, 5:7] = 0.7
    made = made.with_image("region_probability", np.full(SHAPE, 0.9, np.float32), tmp_path / "b")
    return made.with_image("candidate_probability", found, tmp_path / "c")


def method(pair, **settings):
    named = {
        "cache": Cache(pair),
        "channels": Channels((BASELINE, FOLLOWUP), TARGET),
        "patches": None,
        "task": Task(Risen(), nn.Identity(), torch.optim.SGD),
        "training": None,
        "infer": CandidateWindows(8),
        "score": lambda mask, reference, spacing: {"dice": float((mask == reference).all())},
        "propose": AboveThreshold("candidate_probability", "region_probability"),
        **settings,
    }
    return NetworkCandidates(**named)


def test_the_network_rejects_false_candidates_and_without_it_they_stay(pair):
    found = method(pair).predict(pair)
    np.testing.assert_array_equal(found.mask, pair.mask(TARGET))
    assert list(found.steps) == ["proposed", "classified"] and found.probability is None
    without = method(pair, least_score=None).predict(pair)
    assert len(Candidates.of(without.mask > 0, (1.0, 1.0, 1.5))) == 3
    assert list(without.steps) == ["proposed"]
    np.testing.assert_array_equal(without.mask, found.steps["proposed"])
    np.testing.assert_array_equal(found.inside, pair.image("region_probability") > 0.5)


def test_rules_follow_the_network_in_their_order(pair):
    rules = {"size": AtLeastVoxels(9), "off": None}
    found = method(pair, rules=rules, task=Task(Risen(-9), nn.Identity(), torch.optim.SGD))
    steps = found.predict(pair).steps
    assert list(steps) == ["proposed", "classified", "size"]
    assert [int(step.sum()) for step in steps.values()] == [62, 62, 54]


def test_the_network_sees_the_scans_and_the_candidates(pair):
    candidates = AboveThreshold("candidate_probability", "region_probability")(pair).candidates
    seen = []

    def classify(network, images, boxes):
        seen.append((network, images, boxes))
        return np.array([0.5, 0.49, 0.51], np.float32)

    rule = AtLeastScore(classify, None, (FOLLOWUP, BASELINE), 0.5)
    assert rule(pair, candidates).tolist() == [True, False, True]
    ((_, images, boxes),) = seen
    assert images.dtype == np.float32 and boxes == candidates.boxes
    np.testing.assert_array_equal(images[:2], pair.stack([FOLLOWUP, BASELINE]))
    np.testing.assert_array_equal(images[2], candidates.mask)


def test_it_is_validated_by_all_of_its_steps(pair):
    made = method(pair)
    validate = made._validator(made.infer, TARGET)
    assert validate(Risen(), pair)["dice"] == 1
    assert validate(Risen(9), pair)["dice"] == validate(Risen(-9), pair)["dice"] == 0
    assert set(validate(Risen(), pair)) == {"dice", "dice_or_empty", "score"}


def test_a_score_is_between_0_and_1(pair):
    with pytest.raises(ValueError, match="between 0 and 1"):
        method(pair, least_score=1.2)
