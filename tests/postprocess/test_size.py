import numpy as np
import pytest

from msseg_lightning.postprocess.size import MinAxis, MinSize
from tests.postprocess.phantom import blocks, predicted

CUBE = ((0, 3), (0, 3), (0, 3))


def kept(rule, mask, spacing=(1.0, 1.0, 1.0)):
    return int(rule(predicted(mask, spacing)).mask.sum())


def test_s01_a_27_voxel_cube_stays_26_voxels_go():
    cube = blocks((8, 8, 8), CUBE)
    broken = cube.copy()
    broken[0, 0, 0] = 0
    assert kept(MinSize(voxels=27), cube) == 27
    assert kept(MinSize(voxels=27), broken) == 0
    assert kept(MinSize(voxels=27, strict=True), cube) == 0


def test_s02_exactly_4_mm3_go_and_4_25_mm3_stay():
    rule, spacing = MinSize(mm3=4, connectivity=26, strict=True), (1.0, 0.5, 0.5)  # 0.25 mm3
    sixteen = blocks((8, 8, 8), ((0, 4), (0, 2), (0, 2)))
    seventeen = sixteen.copy()
    seventeen[4, 0, 0] = 1
    assert kept(rule, sixteen, spacing) == 0
    assert kept(rule, seventeen, spacing) == 17
    assert kept(MinSize(mm3=4), sixteen, spacing) == 16


def test_s02_blobs_touching_by_a_corner_are_one():
    mask = blocks((8, 8, 8), ((0, 2), (0, 2), (0, 2)), ((2, 4), (2, 4), (2, 4)))
    assert kept(MinSize(voxels=16, connectivity=26), mask) == 16
    assert kept(MinSize(voxels=16, connectivity=18), mask) == 0
    assert kept(MinSize(voxels=16, connectivity=6), mask) == 0


@pytest.mark.parametrize(
    ("spacing", "least"), [((0.5, 0.5, 0.5), 25), ((0.9, 0.9, 0.9), 5), ((1, 1, 1), 4)]
)
def test_larger_than_3_mm3_in_voxels(spacing, least):
    volume = float(np.prod(spacing))
    assert MinSize(mm3=3, strict=True).least_voxels(volume) == least


def test_rounded_headers_do_not_move_the_limit():
    assert MinSize(mm3=4, strict=True).least_voxels(0.25 * (1 + 1e-7)) == 17
    assert MinSize(mm3=4, strict=True).least_voxels(0.25 * (1 - 1e-7)) == 17
    assert MinSize(mm3=4).least_voxels(0.25 * (1 - 1e-7)) == 16


def test_voxels_do_not_depend_on_spacing():
    cube = blocks((8, 8, 8), CUBE)
    assert kept(MinSize(voxels=27), cube, (0.1, 0.1, 5.0)) == 27


def test_only_the_small_one_goes():
    mask = blocks((12, 8, 8), CUBE, ((6, 8), (6, 8), (6, 8)))
    after = MinSize(voxels=9)(predicted(mask)).mask
    assert np.array_equal(after, blocks((12, 8, 8), CUBE)) and after.dtype == np.uint8


def test_empty_mask_stays_empty():
    for rule in (MinSize(voxels=3), MinAxis(2)):
        assert kept(rule, np.zeros((4, 5, 6))) == 0


def test_one_limit():
    with pytest.raises(ValueError, match="not both"):
        MinSize()
    with pytest.raises(ValueError, match="not both"):
        MinSize(voxels=1, mm3=1)


@pytest.mark.parametrize(("thickness", "stays"), [(1, False), (2, True), (3, True)])
def test_sheets_are_thin(thickness, stays):
    # centres at 0 and 1 have variance 1/4: an axis of 4 * 1/2 = 2 voxels, which is enough
    mask = blocks((8, 8, 8), ((0, thickness), (0, 6), (0, 6)))
    assert (kept(MinAxis(2), mask) > 0) == stays


def test_axis_in_mm_and_the_middle_axis():
    sheet = blocks((8, 8, 8), ((0, 2), (0, 6), (0, 6)))
    assert kept(MinAxis(2, unit="mm"), sheet, (0.5, 1, 1)) == 0  # 2 voxels are 1 mm
    assert kept(MinAxis(1, unit="mm"), sheet, (0.5, 1, 1)) == 72
    rod = blocks((8, 8, 8), ((0, 1), (0, 3), (0, 6)))
    # centres -1, 0, 1: variance 2/3, axis 4 * 0.8165 = 3.27
    assert (
        kept(MinAxis(3.2, axis="minor"), rod) == 18 and kept(MinAxis(3.3, axis="minor"), rod) == 0
    )


def test_single_voxel_has_no_axis():
    assert kept(MinAxis(0.1), blocks((3, 3, 3), ((1, 2), (1, 2), (1, 2)))) == 0
