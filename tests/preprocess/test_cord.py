"""A drawn head: a ball of brain, a cord below it that leans, dark water around, a bright muscle."""

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.cord import (
    BASELINE_CORD,
    FOLLOWUP_CORD,
    AlignCord,
    GrowCord,
    JointMask,
    grown_cord,
    upward,
)
from msseg_lightning.preprocess.mask import BASELINE_BRAIN, FOLLOWUP_BRAIN

SHAPE = (40, 40, 60)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])


def head(shift=(0, 0), lean=0.2):
    """(scan, brain, cord): the cord leaves the brain at slice 30 and is shifted below slice 20."""
    x, y, z = np.indices(SHAPE)
    brain = (x - 20) ** 2 + (y - 20) ** 2 + (z - 42) ** 2 <= 12.5**2
    stem = ((x - 20) ** 2 + (y - 20) ** 2 <= 9) & (z >= 28) & (z <= 36)
    brain |= stem
    moved = np.where(z < 20, 1, 0)
    middle = 20 + lean * (28 - z) + moved * shift[0]
    cord = ((x - middle) ** 2 + (y - 20 - moved * shift[1]) ** 2 <= 9) & (z < 28)
    muscle = (np.abs(x - 20) > 14) & (z < 28)
    scan = np.where(brain | cord, 100.0, 20.0) + np.where(muscle, 80.0, 0.0)
    scan += np.random.default_rng(0).normal(0, 3, SHAPE)
    return scan.astype(np.float32), brain, cord


def pair(shift=(0, 0), affine=AFFINE, flip=False):
    volumes = {}
    for name, mask, moved in (
        (BASELINE, BASELINE_BRAIN, shift),
        (FOLLOWUP, FOLLOWUP_BRAIN, (0, 0)),
    ):
        scan, brain, _ = head(moved)
        if flip:
            scan, brain = scan[:, :, ::-1], brain[:, :, ::-1]
        volumes[name] = Volume(scan, affine)
        volumes[mask] = Volume(brain, affine, "mask")
    subject = LongitudinalSubject("p", "p", {})
    return LoadedSubject(subject, volumes, Native(volumes[FOLLOWUP].grid, b""))


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_the_cord_is_followed_to_the_end_of_the_scan():
    scan, brain, cord = head()
    found = grown_cord(Volume(scan, AFFINE), brain)
    assert dice(found, cord) > 0.95
    assert found[:, :, 0].any() and not (found & brain).any()


def test_up_is_found_from_the_affine():
    """Axis 2 turned over, then the body along axis 0."""
    scan, brain, cord = head()
    down = AFFINE @ np.diag([1, 1, -1, 1.0])
    found = grown_cord(Volume(scan[:, :, ::-1], down), brain[:, :, ::-1])
    assert dice(found, cord[:, :, ::-1]) > 0.95
    other = np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [1.5, 0, 0, 0], [0, 0, 0, 1]])
    turned = np.moveaxis(scan, 2, 0)
    assert upward(Volume(turned, other).grid) == (0, 1)
    found = grown_cord(Volume(turned, other), np.moveaxis(brain, 2, 0))
    assert dice(found, np.moveaxis(cord, 2, 0)) > 0.95


def test_growing_ends_where_the_cord_does():
    scan, brain, _ = head()
    scan[:, :, :10] = 20
    found = grown_cord(Volume(scan, AFFINE), brain)
    assert found[:, :, 10].any() and not found[:, :, :10].any()


def test_it_does_not_leak_into_what_touches_it():
    """A bridge as bright as the cord leads to a muscle as bright as the cord."""
    scan, brain, cord = head(lean=0.0)
    scan[20:36, 18:23, 12:16] = 100
    scan[34:40, :, :16] = 100
    found = grown_cord(Volume(scan, AFFINE), brain)
    assert dice(found, cord) > 0.75
    assert not found[32:].any()


def test_nothing_grows_from_no_brain_or_to_no_slice():
    scan, brain, _ = head()
    assert not grown_cord(Volume(scan, AFFINE), brain & False).any()
    cut = Volume(scan[:, :, 28:], AFFINE)
    assert not grown_cord(cut, brain[:, :, 28:]).any()


def test_both_visits_have_cords_each_from_its_own_brain():
    subject = GrowCord()(pair(shift=(3, -2)))
    for name, shift in ((BASELINE_CORD, (3, -2)), (FOLLOWUP_CORD, (0, 0))):
        assert dice(np.asarray(subject.volumes[name].data), head(shift)[2]) > 0.9
    given = pair()
    brain = given.volumes[FOLLOWUP_BRAIN]
    scans = {name: given.volumes[name] for name in (BASELINE, FOLLOWUP)}
    subject = GrowCord()(given.replace(volumes={**scans, BRAIN: brain}))
    assert subject.volumes[BASELINE_CORD].data.any()


def test_the_baseline_cord_is_brought_to_that_of_the_follow_up():
    given = pair(shift=(3, -2))
    lesion = head((3, -2))[2] & (np.indices(SHAPE)[2] < 14)
    volumes = {
        **given.volumes,
        BASELINE_LESIONS: Volume(lesion, AFFINE, "mask"),
        TARGET: Volume(lesion, AFFINE, "mask"),
    }
    before = GrowCord()(given.replace(volumes=volumes))
    after = AlignCord(smoothing=2)(before)
    target = np.asarray(after.volumes[FOLLOWUP_CORD].data)
    assert dice(np.asarray(after.volumes[BASELINE_CORD].data), target) > 0.93
    assert dice(np.asarray(before.volumes[BASELINE_CORD].data), target) < 0.75
    low = (slice(None), slice(None), slice(0, 14))
    moved = np.asarray(after.volumes[BASELINE].data)[low]
    wanted = np.asarray(after.volumes[FOLLOWUP].data)[low]
    still = np.asarray(before.volumes[BASELINE].data)[low]
    cord = target[low]
    assert np.abs(moved - wanted)[cord].mean() < 0.3 * np.abs(still - wanted)[cord].mean()
    assert after.volumes[BASELINE_LESIONS].data.dtype == bool
    assert dice(after.volumes[BASELINE_LESIONS].data, head()[2] & (np.indices(SHAPE)[2] < 14)) > 0.9
    # the brain, the follow-up and what belongs to it stay
    top = (slice(None), slice(None), slice(36, None))
    np.testing.assert_array_equal(
        after.volumes[BASELINE].data[top], before.volumes[BASELINE].data[top]
    )
    for name in (FOLLOWUP, TARGET, FOLLOWUP_BRAIN):
        assert after.volumes[name] is before.volumes[name]


def test_a_pair_without_cord_is_not_aligned():
    subject = pair()
    volumes = {
        name: Volume(v.data[:, :, 28:], AFFINE, v.kind) for name, v in subject.volumes.items()
    }
    grown = GrowCord()(subject.replace(volumes=volumes))
    found = AlignCord()(grown)
    assert found.volumes == grown.volumes and found.notes[-1].startswith("no cord")


@pytest.mark.parametrize("cord", [True, False])
def test_the_joint_mask_is_the_brain_of_the_follow_up_and_both_cords_enlarged(cord):
    subject = pair(shift=(3, -2))
    if cord:
        subject = GrowCord()(subject)
    joint = np.asarray(JointMask(brain_mm=2.0, cord_mm=3.0)(subject).volumes[BRAIN].data)
    brain = head()[1]
    assert joint[brain].all()
    # 3 voxels to the side of the brain's widest slice; of 1.5 mm voxels one above it
    assert joint[20 + 14, 20, 42] and not joint[20 + 15, 20, 42]
    assert joint[20, 20, 55] and not joint[20, 20, 56]
    below = joint[:, :, :20]
    if not cord:
        assert not below.any()
        return
    both = head((3, -2))[2] | head()[2]
    assert below[both[:, :, :20]].mean() > 0.98
    alone = JointMask(0.0, 0.0)(subject).volumes[BRAIN].data
    cords = [np.asarray(subject.volumes[name].data) for name in (BASELINE_CORD, FOLLOWUP_CORD)]
    assert np.array_equal(alone, brain | cords[0] | cords[1])


def test_a_brain_that_came_with_the_data_is_taken_and_parts_are_dropped():
    given = pair()
    brain = given.volumes[FOLLOWUP_BRAIN]
    scans = {name: given.volumes[name] for name in (BASELINE, FOLLOWUP)}
    soft = Volume(np.asarray(brain.data) * np.float32(0.6), AFFINE, "probability")
    found = JointMask(0.0)(given.replace(volumes={**scans, BRAIN: soft}))
    assert np.array_equal(found.volumes[BRAIN].data, brain.data)
    found = JointMask()(GrowCord()(given))
    assert set(found.volumes) == {BASELINE, FOLLOWUP, BRAIN}


def test_a_visit_alone_has_one_cord():
    given = pair()
    alone = {name: given.volumes[name] for name in (FOLLOWUP, FOLLOWUP_BRAIN)}
    found = GrowCord()(given.replace(volumes=alone))
    assert set(found.volumes) == {*alone, FOLLOWUP_CORD}
    both = GrowCord()(given).volumes[FOLLOWUP_CORD].data
    np.testing.assert_array_equal(found.volumes[FOLLOWUP_CORD].data, both)
    joint = JointMask(0.0, 0.0)(found).volumes
    np.testing.assert_array_equal(joint[BRAIN].data, both | alone[FOLLOWUP_BRAIN].data)


@pytest.mark.parametrize("margin_mm", [0.4, 1.0, 2.5, 6.0])
def test_the_joint_mask_is_enlarged_as_the_distance_says(margin_mm):
    brain = keyed_generator("enlarged").random((24, 21, 9)) > 0.997
    brain[0, 20, 8] = True  # a corner
    for edges in ((0.5, 0.5, 0.5), (0.7, 1.1, 3.0)):
        affine = np.diag([*edges, 1.0])
        scan = Volume(np.ones(brain.shape, np.float32), affine)
        volumes = {FOLLOWUP: scan, BRAIN: Volume(brain, affine, "mask")}
        found = JointMask(brain_mm=margin_mm)(pair().replace(volumes=volumes))
        away = ndimage.distance_transform_edt(~brain, sampling=edges)
        assert np.array_equal(found.volumes[BRAIN].data, away <= margin_mm + 1e-6)
