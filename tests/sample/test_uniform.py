import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BRAIN
from msseg_lightning.sample.uniform import UniformSampler


def test_subjects_equally_often_and_centres_in_the_brain(cohort):
    sampler = UniformSampler(1)
    specs = [sampler.draw(cohort, keyed_generator("uniform", i)) for i in range(1000)]
    counts = np.bincount([spec.subject for spec in specs], minlength=5)
    assert counts.min() > 150 and counts.max() < 250
    for spec in specs:
        assert cohort[spec.subject].mask(BRAIN)[tuple(spec.centre.astype(int))]
    middle = np.mean([spec.centre for spec in specs], axis=0)
    assert np.abs(middle - (np.array(cohort[0].grid.shape) - 1) / 2).max() < 1.2


def test_patches_stay_inside(cohort):
    sampler = UniformSampler((16, 9, 20))
    for i in range(200):
        spec = sampler.draw(cohort, keyed_generator("uniform", i))
        start = spec.centre - (np.array(spec.size) - 1) / 2
        assert (start >= 0).all() and (start == np.rint(start)).all()
        assert (start + spec.size <= cohort[0].grid.shape).all()


def test_over_the_whole_volume_most_centres_lie_outside_the_brain(cohort):
    sampler = UniformSampler(1, where="volume")
    inside = [
        cohort[spec.subject].mask(BRAIN)[tuple(spec.centre.astype(int))]
        for spec in (sampler.draw(cohort, keyed_generator("volume", i)) for i in range(600))
    ]
    share = np.mean([subject.mask(BRAIN).mean() for subject in cohort])
    assert abs(np.mean(inside) - share) < 0.08


def test_any_other_place_is_refused():
    with pytest.raises(ValueError, match="neither"):
        UniformSampler(1, where="skull")
