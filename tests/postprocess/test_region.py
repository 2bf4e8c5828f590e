import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.postprocess.region import FillHoles, InsideMask, NotOnBoundary
from tests.postprocess.phantom import blocks, predicted

BRAIN = blocks((12, 12, 12), ((2, 10), (2, 10), (2, 10))).astype(bool)


def test_outside_voxels_are_cleared():
    mask = blocks((12, 12, 12), ((8, 12), (5, 6), (5, 6)))
    after = InsideMask()(predicted(mask, inside=BRAIN)).mask
    assert np.argwhere(after)[:, 0].tolist() == [8, 9] and after.dtype == np.uint8


def test_lesions_on_the_rim_go_whole():
    rim = ((2, 5), (5, 6), (5, 6))  # voxel 2 is the rim of 2..9
    near = ((3, 5), (8, 9), (5, 6))  # 3 and 8 are the first voxels off the rim
    mask = blocks((12, 12, 12), rim, near)
    after = NotOnBoundary(1)(predicted(mask, inside=BRAIN)).mask
    assert np.array_equal(after, blocks((12, 12, 12), near))
    assert not NotOnBoundary(2)(predicted(mask, inside=BRAIN)).mask.any()


def test_the_edge_of_the_volume_is_outside():
    mask = blocks((6, 6, 6), ((0, 2), (3, 4), (3, 4)), ((3, 4), (3, 4), (3, 4)))
    after = NotOnBoundary(1)(predicted(mask, inside=np.ones((6, 6, 6), bool))).mask
    assert np.argwhere(after).tolist() == [[3, 3, 3]]


@pytest.mark.parametrize("rule", [InsideMask(), NotOnBoundary()])
def test_without_a_region(rule):
    with pytest.raises(MssegError, match="needs a region") as caught:
        rule(predicted(np.zeros((3, 3, 3))))
    assert caught.value.exit_code == ExitCode.CONFIG


def test_holes_up_to_a_size_are_filled():
    shell = blocks((12, 12, 12), ((0, 5), (0, 5), (0, 5)))
    shell[1:4, 1:4, 1:4] = 0  # 27 voxels enclosed
    assert FillHoles(27)(predicted(shell)).mask.sum() == 125
    assert FillHoles(26)(predicted(shell)).mask.sum() == 98
    shell[0, 2, 2] = 0  # a door: nothing is enclosed any more
    assert FillHoles(64)(predicted(shell)).mask.sum() == 97


def test_empty_mask_stays_empty():
    empty = predicted(np.zeros((12, 12, 12)), inside=BRAIN)
    for rule in (InsideMask(), NotOnBoundary(), FillHoles(64)):
        assert not rule(empty).mask.any()
