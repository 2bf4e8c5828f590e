import numpy as np
import pytest

from msseg_lightning.sample.patch import lattice_centre, three


def test_centre_by_hand():
    # size 4 around voxel 10: voxels 8..11, centre 9.5; size 5: 8..12, centre 10
    centre = lattice_centre(np.array([10, 10, 10]), (4, 5, 1), (20, 20, 20))
    assert centre.tolist() == [9.5, 10, 10]


def test_boxes_move_into_the_volume_where_they_fit():
    shape, size = (20, 20, 6), (8, 8, 8)
    centre = lattice_centre(np.array([0, 19, 2]), size, shape)
    # 0..7; 12..19; 8 voxels around 6: one more on either side, -1..6
    assert centre.tolist() == [3.5, 15.5, 2.5]
    outside = lattice_centre(np.array([0, 19, 2]), size, shape, inside=False)
    assert outside.tolist() == [-0.5, 18.5, 1.5]


def test_sizes():
    assert three(16) == (16, 16, 16) and three([1, 2, 3]) == (1, 2, 3)
    with pytest.raises(ValueError, match="at least 1"):
        three([4, 0, 4])
