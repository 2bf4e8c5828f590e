import numpy as np

from msseg_lightning.evaluate.lesion_regions import REGIONS, RegionMap, brain_box, shipped_map


def test_the_box_of_a_brain_reaches_to_the_borders_of_its_voxels():
    brain = np.zeros((10, 10, 10), bool)
    brain[2:5, 3, 4:8] = True
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0] = [-2, 0, 0, 10]  # the first axis runs to the left
    low, high = brain_box(brain, affine)
    assert low.tolist() == [10 - 2 * 4.5, 5.0, 7.0] and high.tolist() == [10 - 2 * 1.5, 7.0, 15.0]


def test_places_in_the_shipped_map():
    """World of MNI152, whose brain is its own patient here."""
    stored = shipped_map()
    shape = np.ceil(stored.high - stored.low).astype(int)
    affine = np.eye(4)
    affine[:3, 3] = stored.low + 0.5
    brain = np.ones(shape, bool)
    points = np.array(
        [
            [10.0, 5.0, 18.0],  # in the lateral ventricle
            [-26.0, -20.0, 30.0],  # beside it, in the white matter
            [45.0, 20.0, 40.0],  # under the surface
            [0.0, -30.0, -35.0],  # brainstem
            [-30.0, -60.0, -40.0],  # cerebellum
            [-27.0, 20.0, 20.0],  # frontal white matter
        ]
    )
    found = stored.regions_of(points, brain, affine)
    assert found[0] == "periventricular"
    assert found[2] == "juxtacortical"
    assert found[3:5] == ["infratentorial", "infratentorial"]
    # a brain of twice the size, elsewhere, with the same lesions
    twice = np.diag([2.0, 2.0, 2.0, 1.0])
    twice[:3, 3] = 2 * (stored.low + 0.5) + 0.5 + 100
    moved = (points - stored.low) * 2 + brain_box(brain, twice)[0]
    assert stored.regions_of(moved, brain, twice) == found
    assert set(np.unique(stored.region)) == set(range(len(REGIONS)))


def test_a_map_survives_its_file(tmp_path):
    stored = shipped_map()
    stored.write(tmp_path / "map.npz")
    again = RegionMap.read(tmp_path / "map.npz")
    assert np.array_equal(again.region, stored.region) and np.array_equal(again.low, stored.low)
