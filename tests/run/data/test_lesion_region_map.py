import numpy as np

from msseg_lightning.evaluate.lesion_regions import REGIONS
from msseg_lightning.preprocess.atlas import Atlas
from msseg_lightning.run.data.lesion_region_map import SPACING, region_map


def test_a_made_up_brain_by_hand():
    """A cube of white matter, 90 mm wide, with a ventricle in its middle."""
    shape = (99, 99, 99)
    affine = np.eye(4)
    affine[:3, 3] = -49
    brain = np.zeros(shape, bool)
    brain[4:95, 4:95, 4:95] = True
    ventricles = np.zeros(shape, bool)
    ventricles[45:54, 45:54, 45:60] = True
    grey = np.zeros(shape, np.float32)
    grey[20:30, 60:70, 60:70] = 1.0  # a deep nucleus
    found = region_map(Atlas(grey, brain * (1 - grey), brain, ventricles, affine))

    def name(*world):
        index = np.linalg.inv(found.affine) @ [*world, 1]
        return REGIONS[found.region[tuple(np.rint(index[:3]).astype(int))]]

    assert found.region.shape == (33, 33, 33) and SPACING == 3
    assert found.low.tolist() == [-45.5] * 3 and found.high.tolist() == [45.5] * 3
    assert name(0, 0, 0) == name(9, 0, 0) == "periventricular"
    assert name(40, 0, 10) == name(48, 0, 10) == "juxtacortical"  # and outside of the brain
    assert name(20, 0, 10) == "deep"
    assert name(-24, 16, 16) == "juxtacortical"  # grey matter
    assert name(0, 0, -30) == name(30, -40, -30) == "infratentorial"
    assert name(28, 0, -25) == "deep"  # in front of and beside it
