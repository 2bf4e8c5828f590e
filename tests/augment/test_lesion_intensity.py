import numpy as np
import pytest

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.lesion_intensity import LesionIntensity
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from tests.sample.conftest import prepare

NAMES = (BASELINE, FOLLOWUP)


def scene():
    """Tissue of 2; lesions of 5 (3 x 3 x 3) and of 4 (one voxel), far apart."""
    image, lesion = np.full((16, 12, 12), 2, np.float32), np.zeros((16, 12, 12), bool)
    lesion[2:5, 4:7, 4:7] = True
    image[lesion] = 5
    lesion[12, 6, 6] = True
    image[12, 6, 6] = 4
    return image, lesion


def test_contrast_is_multiplied_in_the_middle_and_less_at_the_border():
    image, lesion = scene()
    before = image.copy()
    LesionIntensity(factor=(1.5, 1.5)).change(image, lesion, keyed_generator(0))
    assert image[3, 5, 5] == pytest.approx(2 + 1.5 * 3)  # of the middle: all of the factor
    assert image[12, 6, 6] == pytest.approx(2 + 1.5 * 2)
    assert 5 < image[2, 4, 4] < image[2, 5, 5] < image[3, 5, 5]
    np.testing.assert_array_equal(image[~lesion], before[~lesion])


def test_lesions_have_each_their_factor_from_the_range():
    drawn = []
    for number in range(40):
        image, lesion = scene()
        LesionIntensity(factor=(0.7, 1.3)).change(image, lesion, keyed_generator(number))
        drawn.append(((image[3, 5, 5] - 2) / 3, (image[12, 6, 6] - 2) / 2))
    first, second = np.array(drawn).T
    assert 0.7 <= min(first.min(), second.min()) < 0.75 < 1.25 < first.max() <= 1.3 + 1e-6
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_a_lesion_without_tissue_around_it_stays():
    image, lesion = np.full((3, 3, 3), 5, np.float32), np.ones((3, 3, 3), bool)
    LesionIntensity(factor=(2, 2)).change(image, lesion, keyed_generator(0))
    assert (image == 5).all()


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_only_new_lesions_of_the_follow_up_scan_change(tmp_path, names):
    pair, changed = prepare(tmp_path, "p", 3, 0), 0
    maker = LesionIntensity(probability=0.5)
    for number in range(40):
        made, plain = (np.empty((2, 20, 20, 20), np.float32) for _ in range(2))
        masks = np.empty((1, 20, 20, 20), np.float32)
        centre = pair.voxels(TARGET)[0].astype(float)
        for engine, images in ((maker, made), (FusedAugment(), plain)):
            engine.fill(pair, centre, names, [TARGET], keyed_generator(number), images, masks)
        different = made != plain
        assert not different[names.index(BASELINE)].any()
        assert not different[names.index(FOLLOWUP)][masks[0] < 0.5].any()
        changed += different.any()
    assert 10 < changed < 30


def test_settings_out_of_range_are_refused():
    for settings in ({"probability": 1.5}, {"sigma_voxels": 0}, {"shell_voxels": 0}):
        with pytest.raises(ValueError, match="out of range"):
            LesionIntensity(**settings)
