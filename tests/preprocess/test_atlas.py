"""The template is what it is said to be, and pairs are moved onto its grid."""

import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess import atlas
from msseg_lightning.preprocess.atlas import (
    VENTRICLES,
    AffineToAtlas,
    affine_to_brain,
    atlas_overlap,
    box_from_atlas,
    mean_of_visits,
    mni152,
)
from msseg_lightning.preprocess.space import covering_grid, resample_array
from msseg_lightning.preprocess.step import describe


def test_maps_of_the_template_lie_on_one_grid_with_the_ventricles_inside():
    template = mni152()
    shape = (197, 233, 189)
    assert template.grey.shape == template.white.shape == template.grid.shape == shape
    assert template.grid.spacing_mm == (1.0, 1.0, 1.0)
    assert not (template.ventricles & ~template.brain).any()
    assert 1.6e6 < template.brain.sum() < 2.1e6  # 1.6 to 2.1 litres with the fluid
    assert 1e4 < template.ventricles.sum() < 8e4
    left = (template.ventricles.nonzero()[0] < shape[0] / 2).mean()
    assert 0.4 < left < 0.6


def test_fluid_is_darker_than_tissue_in_the_made_up_flair():
    template = mni152()
    flair = template.flair().data
    assert flair[template.ventricles].mean() < 0.35 < flair[template.white > 0.9].mean()
    assert not flair[~template.brain & (template.grey + template.white == 0)].any()


def test_neither_visit_weighs_more_in_the_mean(phantom):
    pair = phantom.pair(phantom.grid("canonical"))
    brighter = pair.volumes[FOLLOWUP]
    louder = pair.replace(
        volumes={**pair.volumes, FOLLOWUP: Volume(50 * brighter.data, brighter.affine)}
    )
    np.testing.assert_allclose(
        mean_of_visits(louder, None).data, mean_of_visits(pair, None).data, rtol=1e-4
    )
    dark = pair.replace(
        volumes={
            name: Volume(np.zeros_like(volume.data), volume.affine, volume.kind)
            for name, volume in pair.volumes.items()
        }
    )
    assert not mean_of_visits(dark, None).data.any()


@pytest.mark.parametrize("spacing", [6.0, 8.0])
def test_a_pair_is_moved_by_one_transform_and_comes_back(phantom, spacing, monkeypatch):
    way = np.eye(4)
    way[:3, 3] = (4.0, -6.0, 2.0)  # MNI world -> world of the scan
    monkeypatch.setattr(atlas, "affine_from_atlas", lambda scan, levels_mm: way)
    pair = phantom.pair(phantom.grid("canonical"), brain=False)  # its brain is not the template's
    moved = AffineToAtlas(spacing_mm=spacing)(pair)
    assert moved.grid.spacing_mm == pytest.approx((spacing,) * 3)
    np.testing.assert_array_equal(moved.to_native, way)
    assert {BASELINE, FOLLOWUP, BRAIN, VENTRICLES} <= set(moved.volumes)
    # the middle of the scan's head, at (4, -6, 2) of its world, is at the origin of the template
    scan = pair.volumes[BASELINE]
    index = np.linalg.solve(moved.grid.affine, np.array([0.0, 0.0, 0.0, 1.0]))[:3].round()
    world = (moved.grid.affine @ np.append(index, 1)) @ way.T
    voxel = np.linalg.solve(scan.affine, world)[:3].round().astype(int)
    near = scan.data[tuple(slice(v - 1, v + 2) for v in voxel)]
    assert near.min() <= moved.volumes[BASELINE].data[tuple(index.astype(int))] <= near.max()


def test_a_registration_is_compared_with_the_brain(monkeypatch):
    """A template shrunk to a third has its tissue in a tenth of the brain."""
    template = mni152()
    grid = covering_grid(template.grid, (4.0, 4.0, 4.0))
    brain = resample_array(template.brain, template.affine, grid, "mask", mask_rule="nearest") != 0
    scan = Volume(brain.astype(np.float32), grid.affine)
    shrunk = np.diag([0.33, 0.33, 0.33, 1.0])
    assert atlas_overlap(np.eye(4), grid, brain) > 0.95
    assert atlas_overlap(shrunk, grid, brain) < 0.2
    np.testing.assert_allclose(box_from_atlas(grid, brain)[:3, :3], np.eye(3), atol=0.06)
    monkeypatch.setattr(atlas, "affine_from_atlas", lambda *_: shrunk)
    found, note = affine_to_brain(scan, brain)
    np.testing.assert_allclose(found[:3, :3], np.eye(3), atol=0.06)
    assert "registration failed" in note and "box" in note
    for nothing in (None, np.zeros_like(brain)):
        assert affine_to_brain(scan, nothing) == (pytest.approx(shrunk), "")
    monkeypatch.setattr(atlas, "box_from_atlas", lambda *_: shrunk / 2)
    assert affine_to_brain(scan, brain)[1].endswith("what comes from the atlas is unsure")
    monkeypatch.setattr(atlas, "affine_from_atlas", lambda *_: np.eye(4))
    assert affine_to_brain(scan, brain) == (pytest.approx(np.eye(4)), "")


def test_its_parameters_are_plain_values():
    assert describe(AffineToAtlas(levels_mm=[6.0, 3.0]))["levels_mm"] == (6.0, 3.0)
