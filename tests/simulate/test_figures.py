import numpy as np
import pytest

from msseg_lightning.simulate import figures
from msseg_lightning.simulate.measure import ScanMeasures


@pytest.fixture
def scans():
    return {
        "a": ScanMeasures(
            100.0, 0.03, np.array([1.2, 1.4]), np.array([5.0, 80.0]), np.full(60, 1 / 60)
        )
    }


def test_statistics_figure_and_table(scans, written, tmp_path):
    figures.statistics_figure(scans, scans, tmp_path / "s.png")
    assert 5_000 < (tmp_path / "s.png").stat().st_size < 300_000
    text = figures.table(scans, scans, written)
    assert "| training patients without new lesions | 11 of 40 | 11 of 40 |" in text
    assert "| lesion over white matter | 1.30 (1.21-1.39) |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_pair_figure(written, tmp_path):
    figures.pair_figure(written / "001", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 2_000


def test_simulated_measures_of_a_cohort(written):
    measured = figures.simulated_measures(written)
    assert len(measured) == 8
    assert all(scan.white > 10 and scan.histogram.sum() > 0.9 for scan in measured.values())


def test_crop_keeps_the_head():
    image = np.zeros((60, 50), np.float32)
    image[20:40, 10:30] = 100
    assert 20 <= figures._crop(image).shape[0] <= 30


def test_real_scans_are_measured(open_ms):
    pytest.importorskip("nibabel")
    folder = open_ms / "longitudinal" / "raw" / "patient20"
    data, affine = figures._load(folder / "study2_FLAIR.nii.gz")
    assert np.all(np.diag(affine)[:3] > 0.3) and data.ndim == 3  # stored left to right, now RAS
