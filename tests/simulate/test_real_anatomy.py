import dataclasses

import nibabel
import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Volume
from msseg_lightning.simulate.lesion import Lesion
from msseg_lightning.simulate.real_anatomy import (
    fill_lesions,
    insert_lesions,
    white_matter_level,
)


@pytest.fixture
def scan():
    """White matter of 100 with a cavity of 5 in it, 1 mm, MNI world around (-27, -20, 35)."""
    affine = np.eye(4)
    affine[:3, 3] = (-47, -40, 15)
    image = np.full((40, 40, 40), 100.0, np.float32)
    image += keyed_generator(0, "grain").normal(0, 1, image.shape).astype(np.float32)
    image[:12] = 5
    brain = np.ones(image.shape, np.uint8)
    return Volume(image, affine), Volume(brain, affine, "mask")


def sphere(centre, radius, contrast):
    return Lesion(
        1, "new", "deep", np.array(centre, float), np.full(3, radius), np.eye(3), contrast, 0.0,
        0.0, 0.0, (0.0, 1.0),
    )  # fmt: skip


def test_a_lesion_is_added_where_and_as_bright_as_asked(scan):
    flair, brain = scan
    lesion = sphere((-27, -20, 35), 4.0, 1.4)
    made = insert_lesions(flair, brain, [lesion], np.eye(4), keyed_generator(1, "x"))
    assert made.mask.data[20, 20, 20] == 1
    assert made.volumes_mm3[0] == pytest.approx(4 / 3 * np.pi * 64, rel=0.1)
    assert made.mask.data.sum() == made.volumes_mm3[0]
    change = made.flair.data - flair.data
    assert change[made.mask.data > 0].mean() == pytest.approx(35, abs=8)
    far = np.ones(change.shape, bool)
    far[10:30, 10:30, 10:30] = False
    assert np.abs(change[far]).max() < 0.5


def test_csf_stays_dark_and_absent_lesions_absent(scan):
    flair, brain = scan
    made = insert_lesions(
        flair,
        brain,
        [
            sphere((-36, -20, 35), 4.0, 1.5),  # centre one voxel inside the cavity
            dataclasses.replace(sphere((-27, -20, 35), 3.0, 1.5), scales=(1.0, 0.0)),
            sphere((80, 0, 0), 3.0, 1.5),  # outside the scan
        ],
        np.eye(4),
        keyed_generator(1, "x"),
    )
    assert made.mask.data[:12].sum() == 0 and made.mask.data[12:].sum() > 50
    assert made.volumes_mm3[1:] == (0.0, 0.0)


def test_healing_brings_the_surroundings_back(scan):
    flair, brain = scan
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[22:27, 18:23, 18:23] = 1
    ill = flair.data.copy()
    ill[mask > 0] = 160
    healed = fill_lesions(
        Volume(ill, flair.affine), Volume(mask, flair.affine), brain, keyed_generator(2, "heal")
    )
    inside = healed.data[mask > 0]
    assert inside.mean() == pytest.approx(100, abs=3)
    assert 0.3 < inside.std() < 4  # no smooth hole
    untouched = np.ones(mask.shape, bool)
    untouched[18:31, 14:27, 14:27] = False
    assert np.array_equal(healed.data[untouched], ill[untouched])


def test_white_matter_is_the_mode(scan):
    flair, brain = scan
    assert white_matter_level(flair.data, brain.data) == pytest.approx(100, abs=2)


def test_real_scan_in_mni_space(open_ms):
    folder = open_ms / "cross_sectional/MNI/patient07"
    image = nibabel.load(next(folder.glob("FLAIR*")))
    truth = nibabel.load(next(folder.glob("GOLD*")))
    data = np.asarray(image.dataobj, np.float32)
    box = (slice(90, 150), slice(80, 140), slice(85, 125))  # one side, for speed
    affine = image.affine.copy()
    affine[:3, 3] = (image.affine @ [90, 80, 85, 1])[:3]
    flair = Volume(data[box], affine)
    brain = Volume((data[box] > 5).astype(np.uint8), affine, "mask")
    lesions = Volume((np.asarray(truth.dataobj)[box] > 0.5).astype(np.uint8), affine, "mask")
    white = white_matter_level(flair.data, brain.data)
    healed = fill_lesions(flair, lesions, brain, keyed_generator(0, "heal"))
    inside = lesions.data > 0
    assert healed.data[inside].mean() < flair.data[inside].mean() - 0.1 * white
    assert healed.data[inside].mean() == pytest.approx(white, rel=0.15)
    made = insert_lesions(
        healed, brain, [sphere((-27, -20, 35), 3.0, 1.4)], np.eye(4), keyed_generator(0, "new")
    )
    assert made.volumes_mm3[0] > 40
