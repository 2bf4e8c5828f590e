import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.atlas import AffineToAtlas, mean_of_visits, mni152
from msseg_lightning.preprocess.brain import AtlasBrainExtraction, atlas_brain_mask
from msseg_lightning.preprocess.mask import CombineMasks
from msseg_lightning.preprocess.space import resample_array


def scan_of_template(way, skull=True):
    """A coarse FLAIR of the template's head, and its brain; ``way``: scan world -> MNI world."""
    atlas = mni152()
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (104, -140, -90)
    grid = Grid((52, 64, 50), affine)
    image = resample_array(atlas.flair().data, atlas.affine, grid, "image", way)
    brain = resample_array(atlas.brain.astype(np.float32), atlas.affine, grid, "image", way) >= 0.5
    if skull:
        outer = ndimage.binary_dilation(brain, iterations=4)
        scalp = outer & ~ndimage.binary_dilation(brain, iterations=2)
        image = np.where(scalp, 1.2, image)
    noise = np.random.default_rng(0).normal(0, 0.03, grid.shape)
    return Volume((image + noise).clip(0).astype(np.float32) * 300, affine), brain


@pytest.fixture(scope="module")
def way(phantom):
    matrix = np.eye(4)
    matrix[:3, :3] = phantom.rotation(10, 3, -4) @ np.diag([1.1, 1.05, 1.08])
    matrix[:3, 3] = (4, -6, 8)
    return matrix


def test_template_is_what_nilearn_carries():
    atlas = mni152()
    assert atlas.grid.shape == (197, 233, 189) and (np.diag(atlas.affine) == 1).all()
    assert 1.7e6 < atlas.brain.sum() < 2.1e6
    assert 1.2e4 < atlas.ventricles.sum() < 3e4  # lateral ventricles of young adults: about 20 ml
    assert not (atlas.ventricles & ~atlas.brain).any()
    middle = atlas.affine[:3, 3] + np.argwhere(atlas.ventricles).mean(0)
    assert abs(middle[0]) < 1  # both sides alike
    assert np.all(atlas.grey + atlas.white < 1.1)


@pytest.mark.slow
def test_brain_is_found_inside_a_scalp(phantom, way):
    scan, brain = scan_of_template(way)
    assert phantom.dice(atlas_brain_mask(scan), brain) > 0.95


def test_each_visit_gets_its_mask_unless_one_was_given(phantom, monkeypatch):
    from msseg_lightning.preprocess import brain as module

    subject = phantom.pair(phantom.grid("canonical"))
    kept = AtlasBrainExtraction()(subject)
    assert kept.volumes[BRAIN] is subject.volumes[BRAIN] and "from the data" in kept.notes[-1]
    found = np.asarray(subject.volumes[BRAIN].data)
    monkeypatch.setattr(module, "atlas_brain_mask", lambda scan, smoothness_mm: found)
    made = AtlasBrainExtraction(overwrite=True)(subject)
    assert BRAIN not in made.volumes
    assert made.volumes["baseline_brain"].kind == made.volumes["followup_brain"].kind == "mask"
    assert "may have failed" in made.notes[-1]  # a brain of 15 ml
    one = AtlasBrainExtraction(overwrite=True, visits=[FOLLOWUP])(subject)
    assert "followup_brain" in one.volumes and "baseline_brain" not in one.volumes
    brain = CombineMasks(rule="followup")(one).volumes[BRAIN]
    np.testing.assert_array_equal(brain.data, found != 0)
    with pytest.raises(MssegError, match="needs a mask"):
        CombineMasks(rule="union")(one)


def test_pair_moves_to_the_atlas_and_a_mask_comes_back(phantom, way):
    from msseg_lightning.preprocess.restore import restore

    scan, _ = scan_of_template(way)
    subject = phantom.pair(phantom.grid("canonical"), brain=False)
    x, y, z = np.moveaxis(phantom.world(scan.grid), -1, 0)
    target = (x - 30) ** 2 + (y + 10) ** 2 + (z - 20) ** 2 < 18**2
    volumes = {
        BASELINE: scan,
        FOLLOWUP: scan,
        "new_lesions": Volume(target, scan.affine, "mask"),
    }
    native = type(subject.native)(scan.grid, b"")
    moved = AffineToAtlas()(subject.replace(volumes=volumes, native=native))
    assert moved.grid.same_as(mni152().grid)
    image = np.asarray(moved.volumes[BASELINE].data)
    inside = np.asarray(moved.volumes[BRAIN].data)
    assert np.corrcoef(image[inside], mni152().flair().data[inside])[0, 1] > 0.8
    lesions = moved.volumes["new_lesions"]
    back = restore(lesions.data, moved.grid, moved.native, moved.to_native, "mask")
    assert phantom.dice(back, target) > 0.95
    assert x[back != 0].mean() > 20  # the lesion was on the right


def test_the_grid_may_be_coarser_than_the_template(phantom, monkeypatch):
    from msseg_lightning.preprocess import atlas as module

    levels = []

    def still(scan, levels_mm):
        levels.append(levels_mm)
        return np.eye(4)

    monkeypatch.setattr(module, "affine_from_atlas", still)
    scan, _ = scan_of_template(np.eye(4))
    volumes = {BASELINE: scan, FOLLOWUP: scan}
    subject = phantom.pair(phantom.grid("canonical"), brain=False).replace(volumes=volumes)
    moved = AffineToAtlas(spacing_mm=4.0, levels_mm=[8.0, 6.0])(subject)
    assert levels == [(8.0, 6.0)]
    assert moved.grid.spacing_mm == (4.0, 4.0, 4.0)
    # the same field of view: 197 x 233 x 189 mm, rounded up to whole voxels
    assert moved.grid.shape == (50, 59, 48)
    for name, mask in ((BRAIN, mni152().brain), ("ventricles", mni152().ventricles)):
        assert moved.volumes[name].kind == "mask" and moved.volumes[name].data.dtype == bool
        assert moved.volumes[name].data.sum() * 64 == pytest.approx(mask.sum(), rel=0.1)
    expected = resample_array(scan.data, scan.affine, moved.grid)
    np.testing.assert_array_equal(moved.volumes[FOLLOWUP].data, expected)


def test_mean_of_visits_weighs_both_alike(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    first = np.asarray(subject.volumes[BASELINE].data)
    volumes = {**subject.volumes, FOLLOWUP: Volume(first * 7, subject.grid.affine)}
    mean = mean_of_visits(subject.replace(volumes=volumes), None)
    expected = first / np.percentile(first[first > 0], 95)
    np.testing.assert_allclose(mean.data, expected, rtol=1e-5)
    alone = {name: volume for name, volume in subject.volumes.items() if name != BASELINE}
    of_one = mean_of_visits(subject.replace(volumes=alone), None)
    second = np.asarray(subject.volumes[FOLLOWUP].data)
    expected = second / np.percentile(second[second > 0], 95)
    np.testing.assert_allclose(of_one.data, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("patient", "least"), [("01", 0.94), ("03", 0.86), ("12", 0.86)])
def test_real_scans(open_ms, phantom, patient, least):
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.open_ms import OpenMs

    subjects = {subject.id: subject for subject in OpenMs(open_ms, reverse=False).subjects()}
    loaded = load_subject(subjects[f"patient{patient}"])
    for name in (BASELINE, FOLLOWUP):
        found = atlas_brain_mask(loaded.volumes[name])
        assert phantom.dice(found, loaded.volumes[BRAIN].data) > least
