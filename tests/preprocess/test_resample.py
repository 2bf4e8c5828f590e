import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, TARGET
from msseg_lightning.core.volume import Grid
from msseg_lightning.preprocess.resample import Resample, SimpleRatioResample, respaced


def test_field_of_view_stays():
    grid = Grid((10, 20, 7), np.diag([1.0, 0.5, 3.0, 1.0]))
    fine = respaced(grid, (0.5, 0.5, 1.0))
    assert fine.shape == (20, 20, 21)
    # the first voxel of 3 mm ran from -1.5 to 1.5 mm: its first third is centred on -1
    np.testing.assert_allclose(fine.affine[:3, 3], [-0.25, 0, -1])


def test_isotropic_fixed_and_tolerant(phantom):
    subject = phantom.pair(phantom.grid("anisotropic"))  # 0.72 x 0.72 x 3 mm
    np.testing.assert_allclose(Resample(0.9)(subject).volumes[BASELINE].spacing_mm, [0.9] * 3)
    slices = Resample((None, None, 1.0))(subject).volumes[BASELINE]
    np.testing.assert_allclose(slices.spacing_mm, [0.72, 0.72, 1.0])
    same = Resample((0.75, 0.7, None), tolerance_mm=0.05)(subject)
    assert same.volumes[BASELINE] is subject.volumes[BASELINE]
    assert Resample([1.0, 1.0, 1.0]).spacing_mm == (1.0, 1.0, 1.0)


def test_volumes_stay_on_one_grid_and_soft_masks_become_maps(phantom):
    subject = phantom.pair(phantom.grid("oblique"))
    soft = Resample(0.7, mask_rule="soft")(subject)
    assert soft.grid.shape == soft.volumes[TARGET].data.shape
    assert soft.volumes[TARGET].kind == "probability"
    values = np.asarray(soft.volumes[TARGET].data)
    assert values[(values > 0) & (values < 1)].size > 0
    hard = Resample(0.7)(subject).volumes[TARGET]
    assert hard.kind == "mask" and hard.data.dtype == bool


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (0.45, 0.9),  # 2/1
        (1.05, 1.05),  # near enough
        (0.6, 0.9),  # 2/1 gives 1.2, 3/2 gives 0.9
        (1.2, 0.9),  # 1/1 and 2/2 leave 1.2, 3/4 gives 0.9
        (1.11, 1.11),
        (3.0, 1.0),
        (float(np.float32(0.6)), 0.9),
    ],
)
def test_simple_ratios_of_s13(own, expected):
    assert SimpleRatioResample(1.0, 0.11).near(own) == pytest.approx(expected)


def test_simple_ratios_are_taken_axis_by_axis(phantom):
    subject = phantom.pair(phantom.grid("anisotropic"))  # 0.72 x 0.72 x 3 mm
    coarse = SimpleRatioResample()(subject)
    # 0.72: 1/1 0.72, 3/2 1.08; 3: 1/3
    np.testing.assert_allclose(coarse.volumes[BASELINE].spacing_mm, [1.08, 1.08, 1.0])
    assert coarse.grid.shape == coarse.volumes[TARGET].data.shape
    same = SimpleRatioResample(0.75, 3.0)(subject)
    assert same.volumes[BASELINE] is subject.volumes[BASELINE]
    with pytest.raises(ValueError, match="above 0"):
        SimpleRatioResample(tolerance_mm=0)
