import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import TARGET
from msseg_lightning.sample.ratio import RatioSampler


def draws(sampler, subjects, count=500):
    return [sampler.draw(subjects, keyed_generator("ratio", i)) for i in range(count)]


def test_half_of_the_draws_are_positive_although_some_subjects_are_empty(cohort):
    specs = draws(RatioSampler(16, 0.5), cohort)
    assert 0.45 <= np.mean([spec.positive for spec in specs]) <= 0.55
    for spec in specs:
        if spec.positive:  # the centre voxel was moved at most by half a patch to stay inside
            start = np.rint(spec.centre - 7.5).astype(int)
            box = tuple(slice(a, a + 16) for a in start)
            assert cohort[spec.subject].mask(TARGET)[box].any()
    subjects = {spec.subject for spec in specs}
    assert subjects == {0, 1, 2, 3, 4}
    assert {spec.subject for spec in specs if spec.positive} == {0, 2, 3}


def test_subject_first_lowers_the_ratio(cohort):
    specs = draws(RatioSampler(16, 0.5, only_lesional=False), cohort)
    # three of five subjects have lesions: 0.5 * 3 / 5
    assert abs(np.mean([spec.positive for spec in specs]) - 0.3) < 0.06
    # an empty one gives a patch of its own, not of the first: each a fifth of the draws
    counts = np.bincount([spec.subject for spec in specs], minlength=5) / len(specs)
    np.testing.assert_allclose(counts, 0.2, atol=0.06)


def test_centres_are_target_voxels(cohort):
    for spec in draws(RatioSampler(1, 1.0), cohort, 100):
        assert spec.positive
        assert cohort[spec.subject].mask(TARGET)[tuple(spec.centre.astype(int))]


def test_jitter_is_bounded(cohort):
    sampler = RatioSampler(1, 1.0, jitter_voxels=2, inside=False)
    places = [spec.centre for spec in draws(sampler, [cohort[2]], 200)]
    voxels = cohort[2].voxels(TARGET)
    assert (np.min(places, 0) >= voxels.min(0) - 2).all()
    assert (np.max(places, 0) <= voxels.max(0) + 2).all()
    assert (np.min(places, 0) < voxels.min(0)).all()


def test_jitter_shows_lesions_everywhere_in_the_patch(cohort):
    """A lesion of one voxel lies anywhere up to 2 voxels off the border of a patch of 16."""

    class OneVoxel:
        patient, grid = "p", cohort[2].grid

        def voxels(self, name):
            return np.array([[30, 30, 30]])

    sampler = RatioSampler(16, 1.0, jitter_voxels=6, inside=False)
    starts = np.array([spec.centre - 7.5 for spec in draws(sampler, [OneVoxel()], 400)])
    places = 30 - starts
    assert places.min() == 2 and places.max() == 14
    assert (np.unique(places, axis=0).std(0) > 3).all()


def test_without_any_lesion_patches_are_uniform(cohort):
    specs = draws(RatioSampler(16, 1.0), [cohort[1], cohort[4]], 50)
    assert not any(spec.positive for spec in specs)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_extremes(cohort, ratio):
    assert {spec.positive for spec in draws(RatioSampler(8, ratio), cohort, 100)} == {bool(ratio)}


def test_ratio_must_be_a_share():
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        RatioSampler(8, 1.5)


def test_other_patches_hold_no_lesion_where_that_is_asked_for(cohort):
    """Of boxes of 12 laid anywhere many meet a lesion by chance."""

    def chance(sampler):
        held = []
        for spec in draws(sampler, cohort, 300):
            start = np.maximum(np.rint(spec.centre - 5.5).astype(int), 0)
            box = tuple(slice(a, a + 12) for a in start)
            held.append(cohort[spec.subject].mask(TARGET)[box].any())
        return np.mean(held)

    assert chance(RatioSampler(12, 0.0)) > 0.05
    assert chance(RatioSampler(12, 0.0, lesion_free=True)) == 0


def test_where_every_patch_holds_a_lesion_one_of_them_is_taken(cohort):
    sampler = RatioSampler((30, 36, 24), 0.0, lesion_free=True)
    (spec,) = draws(sampler, [cohort[3]], 1)
    assert spec.subject == 0 and not spec.positive
