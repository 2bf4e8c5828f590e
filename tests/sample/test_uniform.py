import numpy as np

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
