"""What the template says of a voxel is what it says at the voxel's place."""

import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess import atlas_place
from msseg_lightning.preprocess.atlas import mni152
from msseg_lightning.preprocess.atlas_place import PLACE, AtlasPlace

SHIFT = np.array([4.0, -6.0, 2.0])


@pytest.fixture
def placed(phantom, monkeypatch):
    way = np.eye(4)
    way[:3, 3] = SHIFT  # MNI world -> world of the scan
    asked = []

    def known(scan, brain, levels_mm):
        asked.append((scan, brain, levels_mm))
        return way, "" if levels_mm == (6.0,) else "unsure"

    monkeypatch.setattr(atlas_place, "affine_to_brain", known)
    pair = phantom.pair(phantom.grid("canonical"))
    return pair, AtlasPlace(levels_mm=[6.0])(pair), asked


def test_the_maps_are_those_of_the_template_at_the_place_of_each_voxel(placed):
    pair, found, _ = placed
    assert tuple(found.volumes) == (*pair.volumes, *PLACE)
    assert found.notes == pair.notes
    template, grid = mni152(), pair.grid
    to_index = np.linalg.inv(template.affine)
    deep = np.argwhere(template.ventricles)
    draw = np.random.default_rng(0)
    outside = 0
    for voxel in draw.integers(np.array(grid.shape) // 4, 3 * np.array(grid.shape) // 4, (40, 3)):
        told = {name: float(found.volumes[name].data[tuple(voxel)]) for name in PLACE}
        world = (grid.affine @ [*voxel, 1])[:3] - SHIFT
        np.testing.assert_allclose([told[name] for name in PLACE[3:]], world, atol=1e-3)
        index = (to_index @ [*world, 1])[:3]
        near = tuple(slice(int(i), int(i) + 2) for i in index)  # the eight voxels around
        for name, data in (("place_white", template.white), ("place_grey", template.grey)):
            assert data[near].min() - 1e-4 <= told[name] <= data[near].max() + 1e-4
        distance = np.sqrt(((deep - index) ** 2).sum(1).min())
        assert told["place_ventricles"] == pytest.approx(distance, abs=2.5)  # every second voxel
        outside += distance > 10
    assert outside > 5


def test_z_scores_are_registered_as_the_scans_are(placed, phantom):
    """The darkest hundredth of the brain is 0, and so is all outside of it."""
    pair, _, asked = placed
    ((scan, brain, _),) = asked
    np.testing.assert_array_equal(brain, pair.volumes[BRAIN].data != 0)
    assert not scan.data[~brain].any() and scan.data.min() == 0
    lower = {
        name: Volume(np.asarray(pair.volumes[name].data) - 500, pair.grid.affine)
        for name in (BASELINE, FOLLOWUP)
    }
    AtlasPlace(levels_mm=[6.0])(pair.replace(volumes={**pair.volumes, **lower}))
    np.testing.assert_allclose(asked[1][0].data, scan.data, atol=1e-2)


def test_a_failed_registration_is_told(placed):
    pair, _, _ = placed
    assert AtlasPlace(levels_mm=[8.0])(pair).notes == (*pair.notes, "unsure")
