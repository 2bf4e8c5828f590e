import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.crop import (
    CropOrPad,
    CropToMask,
    CropToNonzero,
    CropToSize,
    bounding_box,
)


def test_box_by_hand():
    mask = np.zeros((6, 5, 4), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 0] = mask[3, 2, 3] = True
    low, high = bounding_box(mask)
    assert low.tolist() == [1, 2, 0] and high.tolist() == [4, 3, 4]


def test_nonzero_box_covers_both_visits(phantom):
    subject = phantom.pair(phantom.grid("anisotropic"), brain=False)
    first, second = np.zeros((60, 64, 14), np.float32), np.zeros((60, 64, 14), np.float32)
    first[10:20, 5:9, 3], second[15:30, 5:8, 3:6] = 1, -1
    affine = subject.volumes[BASELINE].affine
    volumes = {BASELINE: Volume(first, affine), FOLLOWUP: Volume(second, affine)}
    cropped = CropToNonzero()(subject.replace(volumes=volumes))
    assert cropped.grid.shape == (20, 4, 3)
    np.testing.assert_allclose(cropped.grid.affine @ [0, 0, 0, 1], affine @ [10, 5, 3, 1])


def test_margin_in_mm_stops_at_the_border(phantom):
    subject = phantom.pair(phantom.grid("anisotropic"))
    mask = np.zeros((60, 64, 14), bool)
    mask[1:5, 30, 7] = True
    volumes = {**subject.volumes, BRAIN: Volume(mask, subject.grid.affine, "mask")}
    cropped = CropToMask(margin_mm=3.0)(subject.replace(volumes=volumes))
    # ceil(3 / 0.72) = 5 voxels in plane, one slice; 1 - 5 stops at 0
    assert cropped.grid.shape == (10, 11, 3)


def test_empty_and_missing(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    nothing = np.zeros(subject.grid.shape, bool)
    empty = {**subject.volumes, BRAIN: Volume(nothing, subject.grid.affine, "mask")}
    same = CropToMask()(subject.replace(volumes=empty))
    assert same.grid.shape == subject.grid.shape and "not cropped" in same.notes[-1]
    with pytest.raises(MssegError, match="cord") as caught:
        CropToMask(mask="cord")(subject)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_at_most_so_many_voxels_from_the_middle(phantom):
    """44 voxels to 41: one before, two behind; 48 stay below 50; 40 to 10: 15 on either side."""
    subject = phantom.pair(phantom.grid("canonical"))
    found = CropToSize([41, 50, 10])(subject)
    assert subject.grid.shape == (44, 48, 40) and found.grid.shape == (41, 48, 10)
    for name, volume in found.volumes.items():
        assert np.array_equal(volume.data, np.asarray(subject.volumes[name].data)[1:42, :, 15:25])
    first = subject.grid.affine @ [1, 0, 15, 1]
    np.testing.assert_allclose(found.grid.affine @ [0, 0, 0, 1], first)
    with pytest.raises(ValueError, match="three numbers"):
        CropToSize([4, 4])


def test_exactly_so_many_voxels_around_the_middle(phantom):
    """44 to 41: one before, two behind; 48 to 51: one zero before, two behind; 40 stay 40."""
    subject = phantom.pair(phantom.grid("canonical"))
    found = CropOrPad([41, 51, 40])(subject)
    assert subject.grid.shape == (44, 48, 40) and found.grid.shape == (41, 51, 40)
    for name, volume in found.volumes.items():
        data = np.asarray(volume.data)
        assert data.dtype == np.asarray(subject.volumes[name].data).dtype
        assert volume.kind == subject.volumes[name].kind
        assert np.array_equal(data[:, 1:49], np.asarray(subject.volumes[name].data)[1:42])
        assert not data[:, 0].any() and not data[:, 49:].any()
    first = subject.grid.affine @ [1, -1, 0, 1]
    np.testing.assert_allclose(found.grid.affine @ [0, 0, 0, 1], first)
    with pytest.raises(ValueError, match="three numbers"):
        CropOrPad([4, 4, 0])
