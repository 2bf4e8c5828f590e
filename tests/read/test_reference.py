"""A reference is read as a mask, once, and is that of the loaded pair."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from msseg_lightning.core import input_hash
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import CHANGE, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.read import reference as module
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import DEFAULT, GateOptions
from msseg_lightning.read.reference import (
    has_new_lesions,
    majority,
    read_reference,
    versions_of,
)
from msseg_lightning.read.stream import Stream
from tests.read import files


@pytest.fixture
def unpacked(monkeypatch):
    """Names of the files whose voxels were unpacked; files count as old at once."""
    monkeypatch.setattr(input_hash, "SETTLED_S", -1.0)
    monkeypatch.setattr(module, "_known", {})
    seen = []
    real = Stream.body

    def body(stream, *given):
        seen.append(stream.name.rpartition("/")[2])
        return real(stream, *given)

    monkeypatch.setattr(Stream, "body", body)
    return seen


def same(one, other):
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert one.kind == other.kind and one.data.dtype == other.data.dtype
    assert one.data.flags.f_contiguous and one.data.any()


@pytest.mark.parametrize("soft", [False, True])
def test_one_file_is_unpacked_once(soft, unpacked, tmp_path):
    folder = files.good_pair(tmp_path, brain=True)
    if soft:
        files.save(folder / files.TARGET, files.scans()[2] * np.float32(0.25))
    (subject,) = Msseg2(tmp_path).subjects()
    options = GateOptions(soft_labels=soft)
    expected = load_subject(subject, options).volumes[TARGET]
    unpacked.clear()
    for _ in range(3):
        same(read_reference(subject, options), expected)
    assert unpacked == [files.TARGET]


def test_a_mask_of_change_needs_the_pair_once(unpacked, tmp_path):
    files.good_pair(tmp_path)
    (pair,) = Msseg2(tmp_path).subjects()
    subject = dataclasses.replace(pair, masks={CHANGE: pair.masks[TARGET]})
    expected = load_subject(subject).volumes[TARGET].data
    unpacked.clear()
    for _ in range(3):
        np.testing.assert_array_equal(read_reference(subject).data, expected)
    assert len(unpacked) == 3 == len(set(unpacked))  # two scans and the mask


def test_other_bytes_and_other_options_are_read_anew(unpacked, tmp_path):
    folder = files.good_pair(tmp_path)
    (subject,) = Msseg2(tmp_path).subjects()
    first = read_reference(subject).data
    files.save(folder / files.TARGET, np.roll(files.scans()[2], 1, axis=0))
    np.testing.assert_array_equal(read_reference(subject).data, np.roll(first, 1, axis=0))
    assert not read_reference(subject, GateOptions(label_values={1: 0})).data.any()
    assert len(unpacked) == 3
    (folder / files.TARGET).unlink()
    with pytest.raises(MssegError, match=r"path\.missing"):
        read_reference(subject)


def test_a_pair_has_new_lesions_or_none_or_is_not_labelled(unpacked, tmp_path):
    folder = files.good_pair(tmp_path)
    (subject,) = Msseg2(tmp_path).subjects()
    assert has_new_lesions(subject) is True
    files.save(folder / files.TARGET, np.zeros_like(files.scans()[2]))
    assert has_new_lesions(subject) is False
    assert has_new_lesions(dataclasses.replace(subject, masks={})) is None


def test_a_damaged_reference_is_refused_each_time(unpacked, tmp_path):
    folder = files.good_pair(tmp_path)
    files.save(folder / files.TARGET, files.scans()[2] * 3)
    (subject,) = Msseg2(tmp_path).subjects()
    for _ in range(2):
        with pytest.raises(MssegError, match=r"mask\.values"):
            read_reference(subject)


def test_what_is_kept_is_bounded(unpacked, monkeypatch, tmp_path):
    for name in ("001", "002", "003"):
        files.good_pair(tmp_path, name)
    subjects = Msseg2(tmp_path).subjects()
    monkeypatch.setattr(module, "MOST_VOXELS", int(2.5 * files.scans()[2].astype(bool).sum()))
    for subject in subjects:
        read_reference(subject)
    read_reference(subjects[2])
    read_reference(subjects[0])  # the oldest was given up
    assert len(unpacked) == 4


@pytest.fixture
def versions(tmp_path):
    """A pair whose four raters mark one lesion more each, and a corrected reference."""
    folder = files.good_pair(tmp_path)
    full = files.scans()[2]
    places = np.argwhere(full)
    for number in range(1, 5):
        mask = np.zeros_like(full)
        mask[tuple(places[:number].T)] = 1
        files.save(folder / f"ground_truth_expert{number}.nii.gz", mask)
    corrected = np.zeros_like(full)
    corrected[tuple(places[:2].T)] = 1
    files.save(folder / "ground_truth_adjudicated.nii.gz", corrected)
    (subject,) = Msseg2(tmp_path).subjects()
    return subject, int(full.sum())


def test_a_reference_has_versions(versions):
    subject, full = versions
    found = {name: int(read_reference(subject, DEFAULT, name).data.sum()) for name in NAMED}
    # two of the three others agree on 3 of (2, 3, 4) voxels, of (1, 3, 4), on 2 of (1, 2, 4) ...
    assert found == dict(zip(NAMED, (full, 1, 2, 3, 4, 3, 3, 2, 2, 2), strict=True))
    assert sorted(versions_of(subject)) == sorted(NAMED)
    loaded = load_subject(subject.with_raters(()))
    assert set(loaded.volumes) & {"new_lesions_rater1", "new_lesions_adjudicated"} == set()


NAMED = (
    "consensus",
    *(f"rater{number}" for number in (1, 2, 3, 4)),
    *(f"without_rater{number}" for number in (1, 2, 3, 4)),
    "adjudicated",
)


@pytest.mark.parametrize("version", ["rater5", "without_rater5"])
def test_a_version_that_a_pair_lacks_is_refused_with_those_it_has(version, versions):
    with pytest.raises(MssegError, match="adjudicated, rater1"):
        read_reference(versions[0], DEFAULT, version)


def test_raters_on_different_grids_have_no_majority():
    marks = [
        Volume(np.zeros(shape, np.uint8), np.eye(4), "mask") for shape in ((2, 2, 2), (3, 2, 2))
    ]
    with pytest.raises(MssegError, match=r"reference\.grids"):
        majority(marks)


def test_half_of_the_raters_are_no_majority():
    both, one = np.zeros((2, 1, 1), np.uint8), np.zeros((2, 1, 1), np.uint8)
    both[:], one[0] = 1, 1
    marks = [Volume(mask, np.eye(4), "mask") for mask in (both, one)]
    assert majority(marks).data.ravel().tolist() == [1, 0]
