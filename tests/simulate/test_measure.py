import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.simulate.measure import measure_scan, noise_level


def test_noise_of_known_strength_on_a_slope():
    shape = (50, 50, 50)
    image = 0.5 * np.indices(shape)[0] + keyed_generator(0, "noise").normal(100, 3, shape)
    everywhere = np.ones(shape, bool)
    for axis in range(3):
        assert noise_level(image.astype(np.float32), everywhere, axis) == pytest.approx(3, rel=0.03)


def test_contrast_volume_and_white_matter_by_hand():
    image = keyed_generator(1, "scan").normal(200, 4, (40, 40, 40)).astype(np.float32)
    lesions = np.zeros(image.shape, np.uint8)
    lesions[10:13, 10:13, 10:13] = 1  # 27 voxels
    lesions[25:27, 25:27, 25:26] = 1  # 4 voxels of 1 mm3: too small for contrast
    lesions[5, 5, 5] = 1  # 1 mm3: too small to count
    image[lesions > 0] *= 1.5
    measured = measure_scan(image, np.ones(image.shape), lesions, 1.0)
    assert measured.white == pytest.approx(200, rel=0.02)
    assert measured.noise == pytest.approx(0.02, rel=0.1)
    assert sorted(measured.volumes_mm3) == [4, 27]
    assert measured.contrasts == pytest.approx([1.5], abs=0.03)
    assert measured.histogram.sum() == pytest.approx(1)
    assert measured.histogram.argmax() in (29, 30)  # at 1


def test_a_scan_without_lesions():
    image = keyed_generator(1, "scan").normal(200, 4, (30, 30, 30)).astype(np.float32)
    measured = measure_scan(image, np.ones(image.shape), None, 1.0)
    assert measured.contrasts.size == 0 and measured.volumes_mm3.size == 0
