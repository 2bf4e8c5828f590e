from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, FOLLOWUP_LESIONS
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.reader import Reader
from msseg_lightning.read.single_timepoint import SingleTimepoint
from msseg_lightning.run.data.simulate import load_recipe
from msseg_lightning.simulate.cohort import write_cohort
from tests.read import files


def scan(root, name, lesions=True, brain=False):
    _, followup, mask = files.scans()
    files.save(root / name / "flair.nii.gz", followup)
    if lesions:
        files.save(root / name / "lesions.nii.gz", mask)
    if brain:
        files.save(root / name / "brain_mask.nii.gz", files.head().astype("uint8"))
    return root / name


def test_a_folder_of_a_user(tmp_path):
    scan(tmp_path, "002", lesions=False)
    scan(tmp_path, "001", brain=True)
    (tmp_path / "notes").mkdir()
    reader = SingleTimepoint(tmp_path)
    assert isinstance(reader, Reader)
    first, second = reader.subjects()
    assert (first.id, first.patient, second.id) == ("single-001", "single-001", "single-002")
    assert set(first.images) == {FOLLOWUP} and set(first.masks) == {FOLLOWUP_LESIONS, BRAIN}
    assert set(second.masks) == set() and not first.labelled
    assert SingleTimepoint(tmp_path, prefix="").subjects()[0].patient == "001"
    only = SingleTimepoint(tmp_path, labelled_only=True)
    assert [subject.id for subject in only.subjects()] == ["single-001"]
    assert [problem.file for problem in only.skipped()] == ["002", "notes"]


def test_it_passes_the_gate_alone(tmp_path):
    scan(tmp_path, "001", brain=True)
    reader = SingleTimepoint(tmp_path)
    (subject,) = reader.subjects()
    loaded = reader.load(subject)
    assert set(loaded.volumes) == {FOLLOWUP, FOLLOWUP_LESIONS, BRAIN}
    assert loaded.grid.shape == loaded.native.grid.shape == files.SHAPE
    assert loaded.volumes[FOLLOWUP_LESIONS].data.sum() == files.scans()[2].sum()


def test_other_contrasts_beside_the_flair_are_read_where_they_lie_there(tmp_path):
    folder = scan(tmp_path, "001")
    files.save(folder / "t2.nii.gz", 2 * files.scans()[1])
    reader = SingleTimepoint(tmp_path)
    (subject,) = reader.subjects()
    assert set(subject.images) == {FOLLOWUP, "followup_t2"}
    loaded = reader.load(subject)
    t2 = loaded.volumes["followup_t2"]
    assert t2.kind == "image" and loaded.grid.shape == files.SHAPE
    assert (t2.data == 2 * loaded.volumes[FOLLOWUP].data).all()


def test_what_the_simulator_writes(tmp_path):
    folder = write_cohort(
        tmp_path / "singles",
        load_recipe("tiny", ["single_timepoint=true", "train=1", "test=0"]),
        seed=3,
    )
    (subject,) = SingleTimepoint(folder).subjects()
    assert set(subject.masks) == {FOLLOWUP_LESIONS, BRAIN}
    loaded = load_subject(subject)
    assert loaded.volumes[FOLLOWUP_LESIONS].data.any() and BASELINE not in loaded.volumes


def test_the_grid_of_its_mask_is_checked(tmp_path):
    folder = scan(tmp_path, "001")
    shifted = files.AFFINE.copy()
    shifted[0, 3] += 5
    files.save(folder / "lesions.nii.gz", files.scans()[2], shifted)
    with pytest.raises(MssegError) as error:
        load_subject(SingleTimepoint(tmp_path).subjects()[0])
    assert [problem.code for problem in error.value.problems] == ["mask.grid"]


def test_a_mirrored_mask_is_refused(tmp_path):
    folder = scan(tmp_path, "001")
    mirrored = files.AFFINE.copy()
    mirrored[0] *= -1
    files.save(folder / "lesions.nii.gz", files.scans()[2], mirrored)
    with pytest.raises(MssegError) as error:
        load_subject(SingleTimepoint(tmp_path).subjects()[0])
    assert "mask.mirrored" in [problem.code for problem in error.value.problems]


def test_a_mask_without_its_scan_and_a_folder_without_scans(tmp_path):
    (scan(tmp_path, "001") / "flair.nii.gz").unlink()
    with pytest.raises(MssegError) as error:
        SingleTimepoint(tmp_path).subjects()
    assert [problem.code for problem in error.value.problems] == ["pair.missing_image"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MssegError) as error:
        SingleTimepoint(empty).subjects()
    assert [problem.code for problem in error.value.problems] == ["data.empty"]
    with pytest.raises(MssegError) as error:
        SingleTimepoint(tmp_path / "absent").subjects()
    assert error.value.exit_code == ExitCode.DATA
    assert SingleTimepoint(None).subjects() == []


def test_pairs_are_not_singles_and_the_other_way_round(tmp_path):
    files.good_pair(tmp_path)
    with pytest.raises(MssegError, match="no scan"):
        SingleTimepoint(tmp_path).subjects()
    scan(tmp_path / "singles", "001")
    with pytest.raises(MssegError, match="no patient"):
        Msseg2(tmp_path / "singles").subjects()
