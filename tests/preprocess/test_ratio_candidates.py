import numpy as np
import pytest

from msseg_lightning.core.candidates import CANDIDATES
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.ratio_candidates import MatchBaseline, RatioCandidates, ball

SHAPE = (24, 22, 20)


def pair(baseline, followup, brain, spacing=(1.0, 1.0, 1.0)):
    affine = np.diag([*spacing, 1.0])
    volumes = {
        BASELINE: Volume(np.asarray(baseline, np.float32), affine),
        FOLLOWUP: Volume(np.asarray(followup, np.float32), affine),
        BRAIN: Volume(np.asarray(brain, np.uint8), affine, "mask"),
    }
    native = Native(volumes[BASELINE].grid, b"")
    return LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, native)


@pytest.fixture
def brain():
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    return mask


def test_the_baseline_gets_the_histogram_of_the_followup(brain):
    generator = np.random.default_rng(0)
    baseline = generator.normal(100, 10, SHAPE)
    followup = 3 * generator.permuted(baseline.ravel()).reshape(SHAPE) + 7
    found = MatchBaseline()(pair(baseline, followup, brain))
    first, second = (np.asarray(found.volumes[name].data) for name in (BASELINE, FOLLOWUP))
    np.testing.assert_allclose(np.sort(first[brain]), np.sort(second[brain]), rtol=1e-3)
    np.testing.assert_array_equal(second[brain], np.asarray(followup, np.float32)[brain])
    assert np.corrcoef(first[brain], baseline[brain])[0, 1] > 0.99  # in their order
    assert not first[~brain].any() and not second[~brain].any()
    nothing = MatchBaseline()(pair(baseline, followup, np.zeros(SHAPE)))
    assert nothing.notes[-1].startswith("brain is empty")


def test_six_levels_from_one_on_with_the_ends_of_the_followup(brain):
    """Levels are a sixth of the way from 0 to 6 each; what lies beyond is 1 or 6."""
    step = RatioCandidates(percentiles=(0, 100))
    values = np.array([-3, 0, 0.9, 1.1, 4.9, 5.1, 6, 9], np.float32)
    assert step.grey_levels(values, 0.0, 6.0).tolist() == [1, 1, 1, 2, 5, 6, 6, 6]
    followup = np.zeros(SHAPE)
    followup[brain] = np.linspace(0, 6, brain.sum())
    found = step(pair(2 * followup, followup, brain))
    first, second = (np.asarray(found.volumes[name].data) for name in (BASELINE, FOLLOWUP))
    assert set(np.unique(second[brain])) == {1, 2, 3, 4, 5, 6}
    assert (first[brain] == 6).mean() == pytest.approx(1 - 5 / 12, abs=0.01)
    assert not first[~brain].any()


def rise(brain, place, spacing=(1.0, 1.0, 1.0), by=1.2, **settings):
    """Candidates of a pair that is 5 everywhere and brighter in one place."""
    baseline = np.where(brain, 5.0, 0.0)
    followup = baseline.copy()
    followup[place] *= by
    step = RatioCandidates(**{"source": "matched", **settings})
    return np.asarray(step(pair(baseline, followup, brain, spacing)).volumes[CANDIDATES].data)


def test_the_ratio_must_be_exceeded(brain):
    place = np.s_[6:10, 6:10, 6:10]
    assert rise(brain, place, by=1.16).any() and not rise(brain, place, by=1.15).any()
    assert not rise(brain, place, by=0.5).any()


def test_a_rise_by_one_level_is_a_candidate(brain):
    """Level 5 to 6 is a ratio of 1.2; of the matched images the same rise is 1.05."""
    base = np.where(brain, 4.9, 0.0)
    base[2, 2, 2], base[3, 3, 3] = 0.01, 6.0
    after = base.copy()
    after[8:12, 8:12, 8:12] = 5.15
    loaded = pair(base, after, brain)
    discretised = RatioCandidates(percentiles=(0, 100), opening_mm=0)(loaded)
    assert np.asarray(discretised.volumes[CANDIDATES].data).sum() == 64
    matched = RatioCandidates(percentiles=(0, 100), opening_mm=0, source="matched")(loaded)
    assert not np.asarray(matched.volumes[CANDIDATES].data).any()
    with pytest.raises(ValueError, match="source"):
        RatioCandidates(source="both")


def test_seven_mm3_stay_and_less_is_dropped(brain):
    """Seven voxels of 1 mm3, and of 0.986 mm3: 6.9 mm3 in all."""
    rod = np.s_[6:13, 8, 8]
    assert rise(brain, rod, opening_mm=0).sum() == 7
    smaller = (1.0, 1.0, 6.9 / 7)
    assert not rise(brain, rod, smaller, opening_mm=0).any()


def test_opening_by_a_millimetre_of_whatever_voxels(brain):
    rod, block = np.s_[6:16, 8:9, 8:9], np.s_[6:10, 6:10, 6:10]
    assert not rise(brain, rod).any() and rise(brain, block).sum() == 32  # without its edges
    assert rise(brain, rod, (1.5, 1.5, 1.5)).sum() == 10  # less than a voxel opens nothing
    assert ball(1.0, (1.0, 1.0, 1.0)).sum() == 7 and ball(1.0, (1.5, 1.5, 1.5)).sum() == 1
    assert ball(1.0, (0.5, 1.0, 3.0)).shape == (5, 3, 1)
    assert ball(1.0, (0.5, 0.5, 0.5)).sum() == 33


def test_the_border_of_the_brain_has_no_candidate(brain):
    found = rise(brain, np.s_[0:8, 6:12, 6:12], opening_mm=0)
    assert np.argwhere(found).min(0).tolist() == [3, 6, 6]
    assert rise(brain, np.s_[0:8, 6:12, 6:12], opening_mm=0, erosion_mm=0)[2, 7, 7]


def test_an_empty_brain_has_none():
    nothing = np.zeros(SHAPE, bool)
    assert not rise(nothing, np.s_[6:10, 6:10, 6:10]).any()
