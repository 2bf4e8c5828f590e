import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.intensity import MinMax, Percentile, ZScore


@pytest.fixture
def toy(phantom):
    """Baseline 0 0 1 3; follow-up all 7; the brain is the last three voxels."""
    subject = phantom.pair(phantom.grid("canonical"))

    def volume(values, kind="image"):
        return Volume(np.array(values, np.float32).reshape(4, 1, 1), np.eye(4), kind)

    return subject.replace(
        volumes={
            BASELINE: volume([0, 0, 1, 3]),
            FOLLOWUP: volume([7, 7, 7, 7]),
            BRAIN: volume([0, 1, 1, 1], "mask"),
        }
    )


def values(subject, name=BASELINE):
    return np.asarray(subject.volumes[name].data).ravel()


def test_z_score_by_hand(toy):
    # non-zero voxels 1 and 3: mean 2, standard deviation 1
    np.testing.assert_allclose(values(ZScore()(toy)), [0, 0, -1, 1])
    np.testing.assert_allclose(values(ZScore(outside="scale")(toy)), [-2, -2, -1, 1])
    # whole volume: mean 1, variance (1 + 1 + 0 + 4) / 4
    expected = np.array([-1, -1, 0, 2]) / np.sqrt(1.5)
    np.testing.assert_allclose(values(ZScore("volume")(toy)), expected, rtol=1e-6)
    # brain: 0 1 3, mean 4/3, variance 14/9
    expected = (np.array([0, 0, 1, 3]) - 4 / 3) / np.sqrt(14 / 9)
    expected[0] = 0
    np.testing.assert_allclose(values(ZScore("mask")(toy)), expected, rtol=1e-6)


def test_one_value_becomes_zero_with_a_note(toy):
    scored = ZScore()(toy)
    assert values(scored, FOLLOWUP).tolist() == [0, 0, 0, 0]
    assert FOLLOWUP in scored.notes[-1]
    assert values(MinMax()(toy), FOLLOWUP).tolist() == [0, 0, 0, 0]
    assert values(Percentile()(toy), FOLLOWUP).tolist() == [-1, -1, -1, -1]


def test_min_max_and_percentiles_by_hand(toy):
    np.testing.assert_allclose(values(MinMax()(toy)), [0, 0, 1 / 3, 1])
    # the median of 0 0 1 3 is 0.5; it becomes 10, the maximum 20
    step = Percentile(50, 100, 10, 20)
    np.testing.assert_allclose(values(step(toy)), [10, 10, 10 + 10 * 0.5 / 2.5, 20])
    # the brain 0 1 3 has median 1
    step = Percentile(50, 100, 0, 1, region="mask")
    np.testing.assert_allclose(values(step(toy)), [0, 0, 0, 1])


def test_masks_are_not_touched(toy):
    for step in (ZScore(), MinMax(), Percentile()):
        assert step(toy).volumes[BRAIN] is toy.volumes[BRAIN]
