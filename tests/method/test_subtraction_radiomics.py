import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Grid
from msseg_lightning.method.subtraction_radiomics import (
    LesionsOfVisit,
    QualityThreshold,
    mutual_information,
    tissue_map,
)
from msseg_lightning.preprocess.tissue import CLASSES

SHAPE = (20, 20, 20)
PROPOSE = QualityThreshold((0.6, 0.8), (1.0, 1.3, 1.6))


class Pair:
    """Noise in a box of brain, of which every voxel is white matter."""

    def __init__(self, noise=0.0):
        generator = np.random.default_rng(0)
        brain = np.zeros(SHAPE, bool)
        brain[2:-2, 2:-2, 2:-2] = True
        baseline = generator.normal(0, 1, SHAPE).astype(np.float32) * brain
        followup = baseline + noise * generator.normal(0, 1, SHAPE).astype(np.float32)
        self.grid = Grid(SHAPE, np.eye(4))
        self.images = {BASELINE: baseline, FOLLOWUP: followup}
        nowhere = np.zeros(SHAPE, bool)
        kinds = {f"{visit}_{kind}" for visit in ("baseline", "followup") for kind in CLASSES}
        self.masks = {BRAIN: brain} | {kind: nowhere.copy() for kind in kinds}

    def image(self, name):
        return self.images[name]

    def mask(self, name):
        return self.masks[name]

    def inside(self, names):
        return np.any([self.images[name] != 0 for name in names], axis=0)


def test_mutual_information_by_hand():
    """Two values each: equal ones share log 2, crossed evenly they share nothing; of three
    quarters alike and one not, sum p log(p / (1/4)) with p = 3/8, 3/8, 1/8, 1/8."""
    half = np.array([0.0, 1.0] * 4)
    assert mutual_information(half, half, 2) == pytest.approx(np.log(2))
    assert mutual_information(half, -half, 2) == pytest.approx(np.log(2))
    assert mutual_information(half, np.array([0.0, 0, 1, 1] * 2), 2) == pytest.approx(0)
    other = half.copy()
    other[[0, 1]] = 1, 0
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert mutual_information(half, other, 2) == pytest.approx(expected)
    assert mutual_information(half, np.ones(8), 2) == 0 == mutual_information(half[:0], half[:0])


def test_less_information_asks_for_a_higher_threshold():
    assert [PROPOSE.threshold(value) for value in (0.9, 0.8, 0.7, 0.6, 0.5)] == [
        1.0,
        1.0,
        1.3,
        1.3,
        1.6,
    ]
    exact, blurred = Pair(), Pair(noise=3.0)
    brain = exact.mask(BRAIN)
    information = [
        mutual_information(pair.image(BASELINE)[brain], pair.image(FOLLOWUP)[brain])
        for pair in (exact, blurred)
    ]
    assert information[0] > 0.8 > 0.6 > information[1]
    found = PROPOSE(blurred)
    change = blurred.image(FOLLOWUP) - blurred.image(BASELINE)
    np.testing.assert_array_equal(found.candidates.mask, (change > 1.6) & brain)
    np.testing.assert_array_equal(found.maps["difference"], np.where(brain, change, 0))
    # surroundings that are 0 at both visits say nothing of how well the brains fit
    noisy = Pair(noise=1.0)
    noisy.image(FOLLOWUP)[~brain] = 0
    change = noisy.image(FOLLOWUP) - noisy.image(BASELINE)
    assert mutual_information(*(noisy.image(name).ravel() for name in (BASELINE, FOLLOWUP))) > 0.6
    np.testing.assert_array_equal(PROPOSE(noisy).candidates.mask, change > 1.6)
    for wrong in (((0.8, 0.6), (1, 2, 3)), ((0.6, 0.8), (3, 2, 1)), ((0.6,), (1, 2, 3))):
        with pytest.raises(ValueError, match=r"limits|threshold"):
            QualityThreshold(*wrong)


def test_what_became_brighter_is_proposed_and_nothing_of_equal_visits():
    pair = Pair()
    assert len(PROPOSE(pair).candidates) == 0
    pair.image(FOLLOWUP)[5:8, 5:8, 5:8] += 1.1
    pair.image(FOLLOWUP)[0, 0, 0] = 9  # outside the brain
    found = PROPOSE(pair)
    assert len(found.candidates) == 1 and found.candidates.sizes.tolist() == [27]
    pair.image(FOLLOWUP)[5:8, 5:8, 5:8] -= 2.2
    assert len(PROPOSE(pair).candidates) == 0


def test_lesions_of_a_visit_and_the_map_of_its_tissue():
    pair = Pair()
    pair.mask("followup_hyperintense")[3:5, 3, 3] = True
    pair.mask("baseline_hyperintense")[9, 9, 9] = True
    pair.mask("baseline_fluid")[8, 8, 8] = True
    found = LesionsOfVisit()(pair)
    np.testing.assert_array_equal(found.candidates.mask, pair.mask("followup_hyperintense"))
    assert list(found.maps) == ["baseline_tissue", "followup_tissue"]
    for name in (BASELINE, FOLLOWUP):  # where all images are 0 nothing is found
        pair.image(name)[:] = 0
    assert len(LesionsOfVisit()(pair).candidates) == 0
    tissue = tissue_map(pair, "baseline")
    assert tissue[9, 9, 9] == 4 and tissue[8, 8, 8] == 3 and tissue.sum() == 7
