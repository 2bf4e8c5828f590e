import numpy as np
import pytest

from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess import atlas
from msseg_lightning.preprocess.atlas import mni152
from msseg_lightning.preprocess.tissue import CLASSES, TissueModel, fit_mixture


def drawn(numbers, means, deviations, certainty=0.6, seed=0):
    """Intensities of three classes, and priors that are right with a certainty."""
    generator = np.random.default_rng(seed)
    kind = np.repeat(np.arange(3), numbers)
    values = generator.normal(np.array(means)[kind], np.array(deviations)[kind])
    priors = np.full((3, len(kind)), (1 - certainty) / 2, np.float32)
    priors[kind, np.arange(len(kind))] = certainty
    return kind, values.astype(np.float32), priors


def test_the_mixture_finds_means_and_deviations():
    kind, values, priors = drawn((4000, 3000, 2000), (0.75, 1.0, 0.2), (0.04, 0.05, 0.06))
    mixture = fit_mixture(values, priors, 5.0, tolerance=1e-6)
    np.testing.assert_allclose(mixture.mean, (0.75, 1.0, 0.2), atol=0.01)
    np.testing.assert_allclose(mixture.deviation, (0.04, 0.05, 0.06), atol=0.01)
    posterior = mixture.posterior(values, priors)
    np.testing.assert_allclose(posterior.sum(0), 1, atol=1e-5)
    assert (posterior.argmax(0) == kind).mean() > 0.98
    assert mixture.brightest(2.5) == pytest.approx(mixture.mean[1] + 2.5 * mixture.deviation[1])


def test_lesions_do_not_widen_grey_matter():
    _, values, priors = drawn((4000, 3000, 2000), (0.75, 1.0, 0.2), (0.04, 0.05, 0.06))
    plain = fit_mixture(values, priors, 2.5)
    bright = np.full(200, 1.8, np.float32)
    even = np.full((3, 200), 1 / 3, np.float32)
    mixture = fit_mixture(np.r_[values, bright], np.c_[priors, even], 2.5)
    np.testing.assert_allclose(mixture.mean, plain.mean, atol=0.01)
    np.testing.assert_allclose(mixture.deviation, plain.deviation, atol=0.01)
    assert mixture.brightest(2.5) < 1.8


def test_one_value_and_one_class_are_survived():
    even = np.full((3, 50), 1 / 3, np.float32)
    found = fit_mixture(np.ones(50, np.float32), even, 2.5)
    assert np.isfinite(found.posterior(np.ones(50, np.float32), even)).all()
    certain = np.zeros((3, 50), np.float32)
    certain[0] = 1
    values = np.random.default_rng(0).normal(1, 0.1, 50).astype(np.float32)
    assert np.isfinite(fit_mixture(values, certain, 2.5).mean).all()


def test_probabilities_are_smoothed_before_the_largest_is_taken():
    """One voxel as bright as grey matter amid white matter becomes white matter."""
    place, values, priors = drawn((500, 500, 500), (0.75, 1.0, 0.2), (0.02, 0.02, 0.02))
    brain = np.ones((15, 10, 10), bool)  # white matter, grey matter and fluid along the first axis
    data = values.reshape(brain.shape)
    data[2, 5, 5] = 1.0
    odd = np.ravel_multi_index((2, 5, 5), brain.shape)
    for voxels, expected in ((0, 1), (1.0, 0)):
        found = TissueModel(smoothing_voxels=voxels).classes(data, brain, priors).argmax(0)
        assert found[odd] == expected and (found == place).mean() > 0.95


@pytest.fixture
def pair(monkeypatch):
    """The template itself as a scan of 4 mm, in place, with a lesion of the follow-up."""
    monkeypatch.setattr(atlas, "affine_from_atlas", lambda *_: np.eye(4))
    template = mni152()
    affine = template.affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    cut = np.s_[::4, ::4, ::4]
    brain = template.brain[cut]
    generator = np.random.default_rng(0)
    scan = np.asarray(template.flair().data)[cut] + generator.normal(0, 0.03, brain.shape)
    baseline = np.where(brain, 100 * scan, 0).astype(np.float32)
    followup = 1.3 * baseline
    deep = np.argwhere(template.white[cut] > 0.95)
    place = tuple(deep[len(deep) // 2])
    followup[place] = 300
    volumes = {
        BASELINE: Volume(baseline, affine),
        FOLLOWUP: Volume(followup, affine),
        BRAIN: Volume(brain.astype(np.uint8), affine, "mask"),
    }
    native = Native(volumes[BASELINE].grid, b"")
    loaded = LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, native)
    return loaded, place, cut


def test_classes_are_those_of_the_template_and_a_lesion_of_its_visit_alone(pair):
    loaded, place, cut = pair
    found = TissueModel()(loaded)
    brain, atlas = loaded.volumes[BRAIN].data > 0, mni152()
    for visit in ("baseline", "followup"):
        masks = [np.asarray(found.volumes[f"{visit}_{kind}"].data) for kind in CLASSES]
        np.testing.assert_array_equal(np.sum(masks, axis=0), brain)  # each voxel in one class
        for mask, truth in zip(masks, (atlas.white, atlas.grey), strict=False):
            sure = truth[cut] > 0.9
            assert mask[sure & brain].mean() > 0.9
        fluid = brain & (atlas.white[cut] + atlas.grey[cut] < 0.05)
        assert masks[2][fluid].mean() > 0.9
    assert found.volumes["followup_hyperintense"].data[place]
    assert not found.volumes["baseline_hyperintense"].data[place]
    assert not np.asarray(found.volumes["baseline_hyperintense"].data).mean() > 0.01
    np.testing.assert_array_equal(found.volumes[BASELINE].data, loaded.volumes[BASELINE].data)


def test_a_lesion_lies_where_white_matter_is_likely(pair):
    loaded, place, cut = pair
    scan = np.array(loaded.volumes[FOLLOWUP].data)
    grey = np.argwhere(mni152().white[cut] + 0.2 < mni152().grey[cut])
    smooth = TissueModel(smoothing_mm=0.1)
    other = tuple(grey[len(grey) // 2])
    scan[other] = 300
    changed = loaded.replace(volumes={**loaded.volumes, FOLLOWUP: Volume(scan, loaded.grid.affine)})
    prior = mni152().white[cut][other]
    found = smooth(changed).volumes["followup_hyperintense"].data
    assert found[place] and found[other] == (prior > 0.3)
    strict = TissueModel(smoothing_mm=0.1, lesion_prior=0.999)(changed)
    assert not strict.volumes["followup_hyperintense"].data[other]


def test_an_empty_brain_has_no_tissue(pair):
    loaded, _, _ = pair
    nothing = Volume(np.zeros(loaded.grid.shape, np.uint8), loaded.grid.affine, "mask")
    found = TissueModel()(loaded.replace(volumes={**loaded.volumes, BRAIN: nothing}))
    assert found.notes[-1] == "the brain mask is empty: no tissue"
    assert not any(np.asarray(found.volumes[f"baseline_{kind}"].data).any() for kind in CLASSES)


def test_where_the_registration_collapsed_the_boxes_of_the_brains_are_matched(pair, monkeypatch):
    """A template shrunk to a third would leave nine tenths of the brain without its tissue."""
    loaded, _, _ = pair
    brain = np.asarray(loaded.volumes[BRAIN].data) > 0
    right = TissueModel()(loaded)
    assert right.notes == loaded.notes
    monkeypatch.setattr(atlas, "affine_from_atlas", lambda *_: np.diag([0.33, 0.33, 0.33, 1.0]))
    found = TissueModel()(loaded)
    assert "registration failed" in found.notes[-1] and "box" in found.notes[-1]
    for kind in CLASSES[:3]:
        name = f"baseline_{kind}"
        same = found.volumes[name].data[brain] == right.volumes[name].data[brain]
        assert same.mean() > 0.95
