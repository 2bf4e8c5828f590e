from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, CHANGE, FOLLOWUP, TARGET
from msseg_lightning.read.gate import inspect_subject
from msseg_lightning.read.load import load_subject, new_lesions_of_change
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.open_ms import OpenMs
from tests.read import files


def test_brighter_components_are_new_and_darker_ones_are_not():
    rng = np.random.default_rng(0)
    brain = np.zeros((12, 12, 12), np.uint8)
    brain[1:11, 1:11, 1:11] = 1
    baseline = (100 + rng.normal(0, 1, brain.shape)) * brain
    followup = (2 * (100 + rng.normal(0, 1, brain.shape)) + 7) * brain  # another scale on purpose
    change = np.zeros_like(brain)
    change[2:4, 2:4, 2:4] = 1  # appeared
    followup[2:4, 2:4, 2:4] += 60
    change[7:9, 7:9, 7:9] = 1  # vanished
    baseline[7:9, 7:9, 7:9] += 30
    new, kept, count = new_lesions_of_change(change, baseline, followup, brain)
    assert (kept, count) == (1, 2)
    assert new.dtype == np.uint8 and new[2:4, 2:4, 2:4].all() and new.sum() == 8
    # with the visits exchanged, the vanished lesion is the new one
    new, kept, _ = new_lesions_of_change(change, followup, baseline, brain)
    assert kept == 1 and new[7:9, 7:9, 7:9].all() and new.sum() == 8


def test_component_counts_by_its_mean():
    # 3 voxels up by 10, 1 voxel down by 40: the mean is negative, so nothing is new
    baseline = np.tile(np.array([90.0, 110.0]), 500).reshape(10, 10, 10)
    followup = baseline.copy()
    change = np.zeros(baseline.shape, np.uint8)
    change[4, 4, 2:6] = 1
    followup[4, 4, 2:5] += 10
    followup[4, 4, 5] -= 40
    brain = np.ones(baseline.shape, np.uint8)
    assert new_lesions_of_change(change, baseline, followup, brain)[1:] == (0, 1)


def test_empty_change_mask_has_no_lesions():
    empty = np.zeros((4, 5, 6), np.uint8)
    image = np.random.default_rng(0).normal(size=empty.shape)
    new, kept, count = new_lesions_of_change(empty, image, image + 1)
    assert not new.any() and (kept, count) == (0, 0)


def test_pair_is_loaded_with_notes_and_its_native_grid(tmp_path):
    folder = files.good_pair(tmp_path, brain=True)
    files.patch(folder / files.FOLLOWUP, files.DESCRIP, "12s", b"DOE^JANE 60Y")
    subject = Msseg2(tmp_path).subjects()[0]
    loaded = load_subject(subject)
    assert set(loaded.volumes) == {BASELINE, FOLLOWUP, TARGET, BRAIN}
    assert loaded.native.grid.same_as(loaded.grid, 0.0)
    assert len(loaded.notes) == 1 and "image.text" in loaded.notes[0]
    sha256 = {name: sha256_file(path) for name, path in subject.files().items()}
    assert loaded.sha256 == sha256


def test_refusal_lists_everything(tmp_path):
    folder = files.good_pair(tmp_path)
    (folder / files.FOLLOWUP).write_bytes(b"")
    files.save(folder / files.TARGET, files.scans()[2] * 3)
    with pytest.raises(MssegError) as caught:
        load_subject(Msseg2(tmp_path).subjects()[0])
    assert {p.code for p in caught.value.problems} == {"image.empty_file", "mask.values"}


def test_real_pair_and_its_reversal(open_ms):
    forward, backward = OpenMs(open_ms).subjects()[:2]
    assert (forward.patient, backward.id) == (backward.patient, f"{forward.id}_reversed")
    loaded = load_subject(forward)
    swapped, _ = inspect_subject(backward, order=1)
    first, second = (loaded.volumes[name].data for name in (BASELINE, FOLLOWUP))
    brain = loaded.volumes[BRAIN].data > 0
    # as the data's README says
    assert np.corrcoef(first[brain], second[brain])[0, 1] == pytest.approx(0.93, abs=0.01)
    # linear and cubic interpolation differ a little, the visits are exchanged
    assert np.corrcoef(first[brain], swapped[FOLLOWUP].data[brain])[0, 1] > 0.98
    change = nib.load(forward.masks[CHANGE])
    back = new_lesions_of_change(np.asarray(change.dataobj), second, first, brain)[0]
    new = np.asarray(loaded.volumes[TARGET].data)
    assert new.any() and back.any()
    np.testing.assert_array_equal(new + back, np.asarray(change.dataobj))
    np.testing.assert_allclose(loaded.native.grid.affine, change.affine, atol=1e-5)
