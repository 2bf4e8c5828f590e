import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.simulate.lesion_prior.statistics import (
    PRIOR_ORIGIN_MM,
    PRIOR_SHAPE,
    PRIOR_SPACING_MM,
    LesionStatistics,
    axis_ratios,
    derive_statistics,
    shipped_statistics,
)

SHARED = Path(os.environ.get("MSSEG_SHARED", Path(__file__).parents[4] / "shared"))


def test_axis_ratios_by_hand():
    mask = np.zeros((10, 10, 10), bool)
    mask[1:9, 2:6, 2:4] = True  # 8 x 4 x 2 voxels: variances n^2/12
    assert axis_ratios(mask, np.ones(3)) == pytest.approx((2.0, 2.0))
    mask[:] = False
    mask[1, 1, 1] = True
    assert axis_ratios(mask, np.ones(3)) == pytest.approx((1.0, 1.0))


def save(path, mask, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), affine), path)


def test_statistics_of_two_lesions_by_hand(tmp_path):
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = PRIOR_ORIGIN_MM
    mask = np.zeros((184, 220, 184), np.uint8)
    mask[40:44, 100:104, 100:104] = 1  # 64 mm3
    mask[60:66, 100:106, 100:106] = 1  # 216 mm3
    mask[80, 80, 80] = 1  # 1 mm3: too small to count
    save(tmp_path / "cross_sectional/MNI/p1/GOLD_STANDARD_x.nii.gz", mask, affine)
    change = np.zeros((10, 10, 10), np.uint8)
    change[2:4, 2:4, 2:4] = 1
    save(tmp_path / "longitudinal/coregistered/p1/gt.nii.gz", change, np.diag([2.0, 1, 1, 1]))
    statistics = derive_statistics(tmp_path)
    assert statistics.counts == pytest.approx(2)
    assert (statistics.volumes_mm3[0], statistics.volumes_mm3[-1]) == (64, 216)
    assert statistics.changed_volumes_mm3 == pytest.approx(16)
    assert statistics.prior.sum() == pytest.approx(1, abs=1e-5)
    x = int((40 + 2) / PRIOR_SPACING_MM)
    assert statistics.small_prior[x, 25, 25] > 0
    # left and right are averaged: the mirror image has the same density
    assert statistics.small_prior[44 - x, 25, 25] == pytest.approx(
        statistics.small_prior[x, 25, 25]
    )
    statistics.write(tmp_path / "s.npz")
    again = LesionStatistics.read(tmp_path / "s.npz")
    assert np.array_equal(again.counts, statistics.counts)
    assert np.abs(again.prior - statistics.prior).max() < 0.01 * statistics.prior.max()


def test_nothing_there(tmp_path):
    with pytest.raises(MssegError, match="open_ms"):
        derive_statistics(tmp_path)


def test_shipped_statistics_are_plausible():
    statistics = shipped_statistics()
    assert statistics.prior.shape == PRIOR_SHAPE
    assert statistics.prior.sum() == pytest.approx(1, abs=1e-4)
    assert 30 < np.median(statistics.counts) < 150
    assert 10 < np.median(statistics.volumes_mm3) < 60
    assert np.all(statistics.elongations >= 1) and np.all(statistics.flatnesses >= 1)
    peak = np.array(np.unravel_index(statistics.prior.argmax(), PRIOR_SHAPE)) * PRIOR_SPACING_MM
    peak = peak + PRIOR_ORIGIN_MM
    assert abs(peak[0]) < 40 and 0 < peak[2] < 40  # beside the lateral ventricles


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data/open_ms").is_dir(), reason="open_ms is not here")
def test_shipped_statistics_come_from_open_ms():
    made, shipped = derive_statistics(SHARED / "data/open_ms"), shipped_statistics()
    assert np.array_equal(made.volumes_mm3, shipped.volumes_mm3)
    assert np.abs(made.prior - shipped.prior).max() < 0.02 * made.prior.max()
