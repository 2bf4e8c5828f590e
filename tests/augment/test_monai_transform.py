import monai.transforms as mt
import numpy as np
import pytest

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.monai_transform import MonaiTransform
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET

CENTRE = np.array([21.5, 25.5, 18.5])


def patch(pair, engine, key, size=(16, 18, 20)):
    images, labels = np.empty((2, *size), np.float32), np.empty((1, *size), np.float32)
    names = (BASELINE, FOLLOWUP)
    engine.fill(pair, CENTRE, names, (TARGET,), keyed_generator(key), images, labels)
    return images, labels


def test_draws_depend_on_the_key_alone(pair):
    both = ["images", "labels"]
    transform = mt.Compose([mt.RandFlipd(both, prob=0.5), mt.RandGibbsNoised("images", 1.0)])
    first = [patch(pair, MonaiTransform(transform), key) for key in (1, 2, 1)]
    assert np.array_equal(first[0][0], first[2][0])
    assert not np.array_equal(first[0][0], first[1][0])


def test_labels_move_with_images(pair):
    flipped = MonaiTransform(mt.RandFlipd(["images", "labels"], prob=1.0, spatial_axis=0))
    plain = MonaiTransform(mt.RandFlipd(["images", "labels"], prob=0.0, spatial_axis=0))
    images, labels = patch(pair, flipped, 1)
    expected_images, expected_labels = patch(pair, plain, 1)
    assert np.array_equal(images, expected_images[:, ::-1])
    assert np.array_equal(labels, expected_labels[:, ::-1]) and labels.any()


def test_a_changed_size_is_refused(pair):
    crop = mt.RandSpatialCropd(["images", "labels"], roi_size=(4, 4, 4), random_size=False)
    with pytest.raises(ValueError, match="after MONAI"):
        patch(pair, MonaiTransform(crop), 1)


def test_each_image_has_draws_of_its_own(pair):
    """Low resolution of one visit and not of the other, labels as they were."""
    low = mt.RandSimulateLowResolutiond("images", prob=0.5, zoom_range=(0.5, 0.5))
    engine = MonaiTransform(low, per_image=True)
    changed = []
    for key in range(12):
        images, labels = patch(pair, engine, key)
        plain, expected = patch(pair, FusedAugment(), key)
        changed.append([not np.array_equal(a, b) for a, b in zip(images, plain, strict=True)])
        assert np.array_equal(labels, expected)
    assert {tuple(each) for each in changed} == {(a, b) for a in (0, 1) for b in (0, 1)}
