import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.intensity import (
    AtLeast,
    HistogramMode,
    MinMax,
    Percentile,
    SliceZScore,
    ZScore,
    histogram_mode,
)


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


def test_the_main_tissue_becomes_one(toy):
    """Two tissues, of 2000 voxels about 40 and 1000 about 90: the frequent one is the unit."""
    generator = np.random.default_rng(0)
    tissue = np.concatenate([generator.normal(40, 2, 2000), generator.normal(90, 2, 1000)])
    data = np.concatenate([np.zeros(5000), tissue]).astype(np.float32).reshape(-1, 1, 1)
    volumes = {
        name: Volume(factor * data, np.eye(4)) for name, factor in ((BASELINE, 1), (FOLLOWUP, 7))
    }
    made = HistogramMode()(toy.replace(volumes=volumes))
    for name in (BASELINE, FOLLOWUP):
        found = values(made, name)
        assert (found[:5000] == 0).all()  # background stays exactly 0
        assert np.median(found[5000:7000]) == pytest.approx(1, abs=0.03)
        assert np.median(found[7000:]) == pytest.approx(90 / 40, abs=0.08)
    np.testing.assert_allclose(values(made), values(made, FOLLOWUP), atol=1e-3)


def test_the_mode_is_that_of_a_kernel_density():
    """Against scipy's density, with the kernel of the same width and no bins."""
    from scipy.stats import gaussian_kde

    generator = np.random.default_rng(1)
    sample = np.concatenate([generator.normal(50, 6, 700), generator.gamma(3, 9, 500)])
    top = np.percentile(sample, 99)
    kept = sample[sample <= top]
    density = gaussian_kde(kept, bw_method=top / 80 / kept.std(ddof=1))
    grid = np.linspace(0, top, 4000)
    expected = grid[density(grid).argmax()]
    assert histogram_mode(sample) == pytest.approx(expected, abs=top / 80 / 10)


def test_bright_outliers_do_not_move_the_mode():
    generator = np.random.default_rng(2)
    sample = generator.normal(50, 3, 5000)
    bright = np.concatenate([sample, np.full(40, 5000.0)])
    assert histogram_mode(bright) == pytest.approx(histogram_mode(sample), rel=0.02)


def test_an_empty_image_has_no_mode(toy):
    zeros = Volume(np.zeros((4, 1, 1), np.float32), np.eye(4))
    made = HistogramMode()(toy.replace(volumes={**toy.volumes, BASELINE: zeros}))
    assert not values(made).any() and "no main tissue" in made.notes[-1]
    assert values(made, FOLLOWUP) == pytest.approx([1, 1, 1, 1], abs=0.02)


def test_slices_are_standardised_one_by_one(phantom):
    """By hand: slice 0 is 0 2 4 2, over 4 + e: mean 0.5, SD sqrt(1/8); slice 1 is empty."""
    data = np.zeros((2, 2, 3), np.float32)
    data[:, :, 0] = [[0, 2], [4, 2]]
    data[:, :, 2] = 5  # one value: mean 1, SD 0
    volume = Volume(data, np.eye(4))
    subject = phantom.pair(phantom.grid("canonical")).replace(
        volumes={BASELINE: volume, BRAIN: Volume(data != 0, np.eye(4), "mask")}
    )
    found = np.asarray(SliceZScore()(subject).volumes[BASELINE].data)
    root = np.sqrt(2)
    np.testing.assert_allclose(found[:, :, 0], [[-root, 0], [root, 0]], atol=1e-4)
    assert not found[:, :, 1].any()
    np.testing.assert_allclose(found[:, :, 2], 0, atol=0.05)
    # a slice of the first axis instead: 0 2 | 0 0 | 5 5 has another mean
    other = np.asarray(SliceZScore(axis=0)(subject).volumes[BASELINE].data)
    assert other[0].mean() == pytest.approx(0, abs=1e-5)
    assert other[0].std() == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="axis 3"):
        SliceZScore(axis=3)


def test_dim_slices_shrink_by_the_small_number(phantom):
    """Half of a slice at 1e-5: x / (1e-5 + 1e-5) is 0 or 0.5; SD 0.25."""
    data = np.zeros((2, 2, 1), np.float32)
    data[0] = 1e-5
    subject = phantom.pair(phantom.grid("canonical"))
    subject = subject.replace(volumes={BASELINE: Volume(data, np.eye(4))})
    (found,) = (np.unique(np.abs(SliceZScore()(subject).volumes[BASELINE].data)),)
    np.testing.assert_allclose(found, 0.25 / (0.25 + 1e-5), rtol=1e-5)
    plain = SliceZScore(epsilon=0.25)(subject).volumes[BASELINE].data
    # over 0.25: 4e-5 or 0; minus 2e-5, over 2e-5 + 0.25
    np.testing.assert_allclose(np.abs(plain), 2e-5 / 0.25, rtol=1e-3)


def test_lower_values_are_raised_and_masks_stay(toy):
    np.testing.assert_allclose(values(AtLeast(minimum=2)(toy)), [2, 2, 2, 3])
    assert values(AtLeast(minimum=2)(toy), BRAIN).tolist() == [0, 1, 1, 1]
