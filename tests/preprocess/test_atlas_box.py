import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess import atlas
from msseg_lightning.preprocess.atlas import mni152
from msseg_lightning.preprocess.atlas_box import AffineToAtlasBox, brain_box
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.preprocess.space import inverse, resample_array


def test_the_box_covers_the_brain_and_the_margin_exactly():
    template = mni152()
    grid = brain_box(template, (256, 256, 256), 10.0)
    assert grid.shape == (256, 256, 256)
    inside = np.argwhere(template.brain) @ template.affine[:3, :3].T + template.affine[:3, 3]
    half = np.array(grid.spacing_mm) / 2
    corners = grid.corners_mm()
    np.testing.assert_allclose(corners.min(0) - half, inside.min(0) - 0.5 - 10, atol=1e-6)
    np.testing.assert_allclose(corners.max(0) + half, inside.max(0) + 0.5 + 10, atol=1e-6)
    spacing = np.array(grid.spacing_mm)
    assert 0.5 < spacing.min() < spacing.max() < 0.9  # 256 voxels, not 256 mm; anisotropic
    assert spacing.argmax() == 1  # the brain is longest from front to back


def test_a_pair_fills_the_grid_and_its_mask_comes_back(phantom, monkeypatch):
    """S14: a mask that goes to the MNI grid and back has a Dice above 0.95."""
    template = mni152()
    way = np.eye(4)  # MNI world -> the scan's world: turned, stretched, moved
    way[:3, :3] = phantom.rotation(6, -4, 9) @ np.diag([1.05, 0.96, 1.08])
    way[:3, 3] = (4.0, -7.0, 5.0)
    affine = np.diag([1.0, 1.1, 1.2, 1.0])
    affine[:3, 3] = (-95, -130, -95)
    native = Grid((190, 220, 170), affine)
    scan = resample_array(template.flair().data, template.affine, native, to_source=inverse(way))
    x, y, z = np.moveaxis(phantom.world(native), -1, 0)
    target = (x - 30) ** 2 + (y + 10) ** 2 + (z - 20) ** 2 < 6**2
    subject = phantom.pair(phantom.grid("canonical"), brain=False)
    volumes = {
        BASELINE: Volume(scan, affine),
        FOLLOWUP: Volume(scan, affine),
        "new_lesions": Volume(target, affine, "mask"),
    }
    subject = subject.replace(volumes=volumes, native=type(subject.native)(native, b""))
    asked = []

    def known(mean, levels):
        asked.append(levels)
        return way

    monkeypatch.setattr(atlas, "affine_from_atlas", known)
    moved = AffineToAtlasBox(shape=(192, 192, 192))(subject)
    assert moved.grid.shape == (192, 192, 192) and asked == [(6.0, 4.0, 3.0)]
    image = np.asarray(moved.volumes[BASELINE].data)
    brain = np.asarray(moved.volumes[BRAIN].data)
    expected = resample_array(template.flair().data, template.affine, moved.grid)
    assert np.corrcoef(image[brain], expected[brain])[0, 1] > 0.95
    for axis in range(3):  # nothing of the brain is cut off, the margin is 10 mm
        other = tuple(edge for edge in range(3) if edge != axis)
        filled = np.flatnonzero(brain.any(other))
        edge = moved.grid.spacing_mm[axis]
        assert filled[0] * edge == pytest.approx(10, abs=1.5)
        assert (191 - filled[-1]) * edge == pytest.approx(10, abs=1.5)
    lesions = moved.volumes["new_lesions"]
    back = restore(lesions.data, moved.grid, moved.native, moved.to_native, "mask", "nearest")
    assert phantom.dice(back, target) > 0.95
    assert "volume ratio 1.09" in moved.notes[-1]


def test_its_parameters_are_plain_values():
    from msseg_lightning.preprocess.step import describe

    made = AffineToAtlasBox(shape=[64, 64, 64], levels_mm=[8.0])
    assert describe(made)["shape"] == (64, 64, 64) and made.levels_mm == (8.0,)
