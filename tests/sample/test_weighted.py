import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BRAIN, TARGET
from msseg_lightning.sample import weighted
from msseg_lightning.sample.weighted import WeightedSampler

S13 = {BRAIN: 1.0, TARGET: 100.0}


def draws(sampler, subjects, count=600):
    return [sampler.draw(subjects, keyed_generator("weighted", i)) for i in range(count)]


def test_a_lesion_voxel_is_a_hundred_times_as_frequent_as_a_brain_voxel(cohort):
    subject = cohort[0]
    target, brain = subject.mask(TARGET), subject.mask(BRAIN)
    lesions, others = target.sum(), (brain & ~target).sum()
    specs = draws(WeightedSampler(1, S13), [subject], 1500)
    voxels = tuple(np.array([spec.centre.astype(int) for spec in specs]).T)
    share = target[voxels].mean()
    # 2 cubes of 27 voxels in a brain of 22 x 28 x 18: 5400 of 5400 + 11034, a third
    expected = 100 * lesions / (100 * lesions + others)
    assert 0.25 < expected < 0.4 and abs(share - expected) < 0.04
    assert brain[voxels].all()  # background has weight 0
    assert np.array_equal([spec.positive for spec in specs], target[voxels])


def test_no_voxel_is_counted_twice(cohort):
    """With equal weights a lesion inside the brain is as frequent as the rest of it."""
    subject = cohort[3]
    specs = draws(WeightedSampler(1, {BRAIN: 1.0, TARGET: 1.0}), [subject], 1500)
    share = np.mean([subject.mask(TARGET)[tuple(s.centre.astype(int))] for s in specs])
    assert abs(share - subject.mask(TARGET).sum() / subject.mask(BRAIN).sum()) < 0.006


def test_subjects_are_equally_frequent_and_empty_ones_give_brain(cohort):
    specs = draws(WeightedSampler(8, S13), cohort)
    counts = np.bincount([spec.subject for spec in specs])
    assert counts.min() > 85 and counts.max() < 155  # 120 expected
    assert {spec.subject for spec in specs if spec.positive} == {0, 2, 3}
    only = WeightedSampler(1, {TARGET: 1.0})
    assert not any(spec.positive for spec in draws(only, [cohort[1]], 20))  # anywhere


def test_a_sample_of_candidates_does_not_lower_a_mask_in_weight(cohort, monkeypatch):
    """Lists end at so many candidates; the share of lesions must not rise with that."""
    subject, most = cohort[2], 40
    whole = type(subject).voxels
    monkeypatch.setattr(type(subject), "voxels", lambda self, name: whole(self, name)[:most])
    monkeypatch.setattr(weighted, "CANDIDATES", most)
    sampler = WeightedSampler(1, S13)
    assert len(subject.voxels(BRAIN)) == most
    assert sampler._count(subject, BRAIN) == subject.mask(BRAIN).sum() > 5000
    assert sampler._count(subject, TARGET) == 27  # short lists are whole


def test_patches_stay_inside(cohort):
    for spec in draws(WeightedSampler(16, S13), cohort, 50):
        start = np.rint(spec.centre - 7.5)
        assert (start >= 0).all() and (start + 16 <= cohort[0].grid.shape).all()


def test_weights_must_be_positive():
    for wrong in ({}, {BRAIN: 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            WeightedSampler(8, wrong)
