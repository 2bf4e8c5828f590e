from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET, Facts
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.participants import read_participants
from msseg_lightning.read.reader import Reader, check_id
from tests.read import files


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def codes(error) -> set[str]:
    return {problem.code for problem in error.value.problems}


def test_challenge_layout(tmp_path):
    raters = [f"ground_truth_expert{n}.nii.gz" for n in range(1, 5)]
    touch(tmp_path / "020", files.BASELINE, files.FOLLOWUP, files.TARGET, *raters)
    touch(tmp_path / "013", files.BASELINE, files.FOLLOWUP, files.BRAIN, "readme.txt")
    touch(tmp_path / "notes", "a.txt")
    reader = Msseg2(tmp_path)
    assert isinstance(reader, Reader)
    first, second = reader.subjects()
    assert (first.id, second.id) == ("013", "020")
    assert set(first.masks) == {BRAIN} and not first.labelled
    assert set(second.masks) == {TARGET, *(f"new_lesions_rater{n}" for n in range(1, 5))}
    assert first.images[FOLLOWUP].name == files.FOLLOWUP and BASELINE in first.images
    assert first.registered and second.labelled and second.root == tmp_path
    only = Msseg2(tmp_path, labelled_only=True)
    assert [subject.id for subject in only.subjects()] == ["020"]
    assert [problem.file for problem in only.skipped()] == ["013", "notes"]


def test_all_holes_are_listed_at_once(tmp_path):
    touch(tmp_path / "013", files.BASELINE)  # D01
    touch(tmp_path / "020", files.BASELINE, files.FOLLOWUP, "ground_truth_expert1.nii.gz")  # D03
    touch(tmp_path / "a b", files.BASELINE, files.FOLLOWUP)  # D08
    touch(tmp_path / "Ax", files.BASELINE, files.FOLLOWUP)
    touch(tmp_path / "ax", files.BASELINE, files.FOLLOWUP)  # D07
    with pytest.raises(MssegError) as caught:
        Msseg2(tmp_path).subjects()
    assert codes(caught) == {"pair.missing_image", "mask.raters", "id.form", "id.case"}
    assert caught.value.exit_code is ExitCode.DATA


def test_any_number_of_raters_on_request(tmp_path):
    touch(tmp_path / "020", files.BASELINE, files.FOLLOWUP, "ground_truth_expert1.nii.gz")
    assert len(Msseg2(tmp_path, need_all_raters=False).subjects()) == 1


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.touch(), id])
def test_no_data(make, tmp_path):
    make(tmp_path / "data")
    with pytest.raises(MssegError) as caught:
        Msseg2(tmp_path / "data").subjects()
    assert codes(caught) <= {"data.root", "data.empty"}


def test_a_root_that_is_not_there_is_named_in_full(tmp_path):
    with pytest.raises(MssegError) as caught:
        Msseg2(tmp_path / "typo" / "data").subjects()
    assert str(tmp_path / "typo" / "data") in str(caught.value)


def test_facts_ride_along(tmp_path):
    touch(tmp_path / "013", files.BASELINE, files.FOLLOWUP)
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsex\tage\tsite\tvendor\tfield_strength\tinterval_days\n"
        "013\tF\t93\tLyon\tGE\t3\tn/a\n"
    )
    facts = Msseg2(tmp_path).subjects()[0].facts
    assert facts == Facts("F", 90.0, "Lyon", "GE", 3.0, None)  # ages of 90 and more are one group


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"participant_id\tage\n013\told\n", "table.number"),
        (b"participant_id\tage\n013\tinf\n", "table.number"),
        (b"id,age\n013,3\n", "table.column"),
        (b"participant_id\tsite\n013\tOrl\xe9ans\n", "table.encoding"),
    ],
)
def test_unfit_facts(text, code, tmp_path):
    (tmp_path / "participants.tsv").write_bytes(text)
    with pytest.raises(MssegError) as caught:
        read_participants(tmp_path / "participants.tsv")
    assert codes(caught) == {code}


@pytest.mark.parametrize(
    ("identifier", "code"),
    [
        ("013", None),
        ("sub-1_ses-2", None),
        ("../../x", ExitCode.SECURITY),  # D10
        ("/etc/passwd", ExitCode.SECURITY),  # D11
        ("-rf", ExitCode.DATA),
        ("a b", ExitCode.DATA),
        ('a"b', ExitCode.DATA),
        ("", ExitCode.DATA),
        ("x" * 65, ExitCode.DATA),  # D13
        ("e\u0301", ExitCode.DATA),  # D09
        ("\u00e9", ExitCode.DATA),
        ("a\n", ExitCode.DATA),
    ],
)
def test_ids(identifier, code):
    problem = check_id(identifier, "table")
    assert (problem and problem.exit_code) == code


def test_what_is_not_used_is_named(tmp_path):
    touch(tmp_path / "013", files.BASELINE, files.FOLLOWUP, "t1.nii.gz", "ground_truth5.nii.gz")
    touch(tmp_path / "1", files.BASELINE, files.FOLLOWUP, "t1.nii.gz")
    touch(tmp_path / "old", "ground_truth_expert5.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\n13\t89+\n001\t40\n9\t50\n")
    reader = Msseg2(tmp_path)
    assert [pair.facts.age_years for pair in reader.subjects()] == [90.0, 40.0]
    found = [(problem.code, problem.file) for problem in reader.skipped()]
    assert found == [
        ("table.id_form", "participants.tsv"),
        ("unused.row", "participants.tsv, 9"),
        ("unused.mask", "old/ground_truth_expert5.nii.gz"),
        ("unused.mask", "013/ground_truth5.nii.gz"),
        ("unused.image", "013/t1.nii.gz"),
    ]


def test_one_patient_in_two_folders(tmp_path):
    touch(tmp_path / "MS01", files.BASELINE, files.FOLLOWUP)
    touch(tmp_path / "sub-MS01", files.BASELINE, files.FOLLOWUP)
    with pytest.raises(MssegError) as caught:
        Msseg2(tmp_path).subjects()
    assert codes(caught) == {"patient.case"}
    (tmp_path / "two").mkdir()
    touch(tmp_path / "two" / "MS01", files.BASELINE, files.FOLLOWUP)
    touch(tmp_path / "two" / "MS1", files.BASELINE, files.FOLLOWUP)
    reader = Msseg2(tmp_path / "two")
    assert len(reader.subjects()) == 2
    assert [problem.code for problem in reader.skipped()] == ["patient.similar"]
