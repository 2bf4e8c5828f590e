import numpy as np
import pytest

from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.resample import (
    FitSlices,
    Resample,
    Resize,
    SimpleRatioResample,
    respaced,
)


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


def test_cubic_splines_follow_a_smooth_curve_more_closely(phantom):
    """A cosine of 8 voxels per turn, halfway between voxels: linear loses 8 % of its height."""
    wave = np.cos(2 * np.pi * np.arange(32) / 8, dtype=np.float32)
    data = np.broadcast_to(wave[:, None, None], (32, 8, 8)).copy()
    subject = phantom.pair(phantom.grid("canonical"))
    subject = subject.replace(volumes={BASELINE: Volume(data, np.eye(4))})
    place = np.arange(64) / 2 - 0.25
    truth = np.cos(2 * np.pi * place / 8)[8:-8]
    errors = {}
    for rule in ("linear", "cubic"):
        fine = Resample((0.5, None, None), image_rule=rule)(subject).volumes[BASELINE].data
        errors[rule] = np.abs(np.asarray(fine)[8:-8, 4, 4] - truth).max()
    assert errors["cubic"] < 0.01 < 0.05 < errors["linear"]


def test_a_number_of_voxels_keeps_the_field_of_view(phantom):
    subject = phantom.pair(phantom.grid("anisotropic"))  # 60 x 64 x 14 of 0.72 x 0.72 x 3 mm
    found = Resize((50, 128, None))(subject)
    assert found.grid.shape == (50, 128, 14)
    np.testing.assert_allclose(found.grid.spacing_mm, [0.864, 0.36, 3.0])
    for corner in ((-0.5, -0.5, -0.5), (1, 1, 1)):
        ends = [
            grid.affine[:3, :3] @ np.where(corner[0] < 0, -0.5, np.array(grid.shape) - 0.5)
            + grid.affine[:3, 3]
            for grid in (subject.grid, found.grid)
        ]
        np.testing.assert_allclose(*ends, atol=1e-9)
    assert found.volumes[BRAIN].data.shape == found.grid.shape
    same = Resize((None, None, 14))(subject).volumes[BASELINE]
    np.testing.assert_array_equal(same.data, subject.volumes[BASELINE].data)
    with pytest.raises(ValueError, match="three numbers"):
        Resize((256, 256))


def test_the_nearest_voxel_is_copied(phantom):
    """Four voxels become six: centres at -1/6, 1/2, 7/6, 11/6, ... of the old ones."""
    data = np.arange(4, dtype=np.float32).reshape(4, 1, 1) + 1
    subject = phantom.pair(phantom.grid("canonical"))
    subject = subject.replace(volumes={BASELINE: Volume(data, np.eye(4))})
    found = Resize((6, None, None), image_rule="nearest")(subject).volumes[BASELINE].data
    assert set(np.asarray(found).ravel()) == {1, 2, 3, 4}
    smooth = Resize((6, None, None))(subject).volumes[BASELINE].data
    np.testing.assert_allclose(np.asarray(smooth).ravel()[1:-1], [1.5, 13 / 6, 17 / 6, 3.5])


@pytest.mark.parametrize(
    ("shape", "spacing", "fits", "expected", "pixel"),
    [
        # 96 x 90 mm in 48 x 60: 2 mm for the first axis, 1.5 mm for the second
        ((96, 60, 7), (1.0, 1.5, 3.0), (48, 60), (48, 45), 2.0),
        # made larger: 20 x 40 mm in 60 x 60, 40 / 60 mm
        ((20, 20, 5), (1.0, 2.0, 1.0), (60, 60), (30, 60), 2 / 3),
        ((48, 60, 4), (1.0, 1.0, 2.0), (48, 60), (48, 60), 1.0),
    ],
)
def test_slices_of_square_pixels_just_fit(shape, spacing, fits, expected, pixel):
    volume = Volume(np.ones(shape, np.float32), np.diag([*spacing, 1.0]))
    subject = LoadedSubject(
        LongitudinalSubject("p", "p", {}), {BASELINE: volume}, Native(volume.grid, b"")
    )
    found = FitSlices(fits)(subject).volumes[BASELINE]
    assert found.grid.shape == (*expected, shape[2])
    np.testing.assert_allclose(found.spacing_mm, [pixel, pixel, spacing[2]])
    middles = [
        one.affine[:3, :3] @ ((np.array(one.grid.shape) - 1) / 2) + one.affine[:3, 3]
        for one in (volume, found)
    ]
    np.testing.assert_allclose(*middles, atol=1e-6)


def test_slices_across_another_axis_and_bad_shapes():
    volume = Volume(np.ones((5, 40, 20), np.float32), np.eye(4))
    subject = LoadedSubject(
        LongitudinalSubject("p", "p", {}), {BASELINE: volume}, Native(volume.grid, b"")
    )
    assert FitSlices((20, 20), axis=0)(subject).volumes[BASELINE].grid.shape == (5, 20, 10)
    with pytest.raises(ValueError, match="pixels"):
        FitSlices((20, 20, 20))
