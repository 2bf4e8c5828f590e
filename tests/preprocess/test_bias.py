import numpy as np

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.bias import N4, Denoise, DifferentialBias


def spread(values):
    return values.std() / values.mean()


def shaded(phantom, subject, names):
    x, y, z = np.moveaxis(phantom.world(subject.grid), -1, 0) / 18
    field = np.exp(0.3 * x - 0.25 * y + 0.1 * z * x).astype(np.float32)
    volumes = dict(subject.volumes)
    for name in names:
        data = np.asarray(volumes[name].data, np.float32) * field
        volumes[name] = Volume(data, subject.grid.affine)
    return subject.replace(volumes=volumes)


def test_n4_evens_out_one_tissue_and_is_repeatable(phantom):
    for grid in ("canonical", "anisotropic"):
        subject = phantom.pair(phantom.grid(grid))
        tissue = np.abs(np.asarray(subject.volumes[BASELINE].data) - 100) < 4
        dark = shaded(phantom, subject, [BASELINE, FOLLOWUP])
        step = N4((12, 12), shrink=3)
        fixed = step(dark)
        before = spread(np.asarray(dark.volumes[BASELINE].data)[tissue])
        after = spread(np.asarray(fixed.volumes[BASELINE].data)[tissue])
        assert after < 0.5 * before
        again = step(dark)
        np.testing.assert_array_equal(fixed.volumes[FOLLOWUP].data, again.volumes[FOLLOWUP].data)


def test_n4_regions_and_nothing_to_correct(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    for mask in ("otsu", "nonzero", BRAIN):
        assert np.isfinite(np.asarray(N4((2,), mask=mask)(subject).volumes[BASELINE].data)).all()
    blank = Volume(np.zeros(subject.grid.shape, np.float32), subject.grid.affine)
    same = N4((2,), mask="otsu")(subject.replace(volumes={**subject.volumes, BASELINE: blank}))
    assert same.volumes[BASELINE] is blank and "too few" in same.notes[-1]


def test_differential_bias_splits_a_constant_ratio_evenly(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    first = np.asarray(subject.volumes[BASELINE].data, np.float32)
    volumes = {**subject.volumes, FOLLOWUP: Volume(first * 4, subject.grid.affine)}
    even = DifferentialBias(3)(subject.replace(volumes=volumes))
    # a ratio of 4: baseline times 2, follow-up by 2
    np.testing.assert_allclose(even.volumes[BASELINE].data, first * 2, rtol=1e-4)
    np.testing.assert_allclose(even.volumes[FOLLOWUP].data, first * 2, rtol=1e-4)


def test_differential_bias_keeps_a_small_lesion(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    first = np.where(np.asarray(subject.volumes[BRAIN].data), 100, 0).astype(np.float32)
    second = first.copy()
    second[20:23, 22:25, 18:21] += 50
    affine = subject.grid.affine
    volumes = {**subject.volumes, BASELINE: Volume(first, affine), FOLLOWUP: Volume(second, affine)}
    even = shaded(phantom, subject.replace(volumes=volumes), [FOLLOWUP])
    even = DifferentialBias(5)(even)
    difference = np.asarray(even.volumes[FOLLOWUP].data) - np.asarray(even.volumes[BASELINE].data)
    inside = np.asarray(subject.volumes[BRAIN].data).copy()
    assert difference[20:23, 22:25, 18:21].mean() > 40
    inside[19:24, 21:26, 17:22] = False
    assert np.abs(difference[inside]).mean() < 3


def test_denoise_calms_tissue_and_keeps_the_edge(phantom):
    subject = phantom.pair(phantom.grid("anisotropic"))
    before = np.asarray(subject.volumes[BASELINE].data)
    after = np.asarray(Denoise()(subject).volumes[BASELINE].data)
    tissue = np.abs(before - 100) < 4
    assert after[tissue].std() < before[tissue].std()
    assert abs(after[before > 150].mean() - before[before > 150].mean()) < 8
