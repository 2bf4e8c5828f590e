from __future__ import annotations

import dataclasses
import json

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, Facts, LongitudinalSubject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.splits import (
    ChallengeFolds,
    FromFile,
    HoldOut,
    KFold,
    LeaveOneOut,
    VendorHeldOut,
    data_hash,
    write_split,
)


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    return path


@pytest.fixture
def make(scan):
    def pairs(names, vendors=("Siemens", "Philips"), reverse=False):
        found = []
        for number, name in enumerate(names):
            for suffix in ("", "_reversed") if reverse else ("",):
                found.append(
                    LongitudinalSubject(
                        id=name + suffix,
                        patient=name,
                        images={BASELINE: scan, FOLLOWUP: scan},
                        facts=Facts(vendor=vendors[number % len(vendors)] if vendors else None),
                    )
                )
        return found

    return pairs


def names(count: int) -> list[str]:
    return [f"p{number:02d}" for number in range(count)]


def refused(action) -> ExitCode:
    with pytest.raises(MssegError) as caught:
        action()
    assert all(problem.remedy and problem.field for problem in caught.value.problems)
    return caught.value.exit_code


def parts(split) -> list[set[str]]:
    return [set(split.train), set(split.val), set(split.test)]


def test_folds_hold_everyone_once_and_their_share_of_lesions(make):
    subjects = make(names(40))
    lesions = {subject.id: number % 4 != 0 for number, subject in enumerate(subjects)}  # 30 of 40
    held_out = []
    for fold in range(5):
        split = KFold(5).split(subjects, fold, lesions)
        train, val, test = parts(split)
        assert not train & val and not train & test and not val & test
        assert train | val | test == {subject.id for subject in subjects}
        assert len(test) == 8 and sum(lesions[name] for name in test) == 6
        assert len(val) == 3  # a tenth of 32
        vendors = [subject.facts.vendor for subject in subjects if subject.id in test]
        assert vendors.count("Siemens") in (3, 4, 5)
        held_out += split.test
    assert sorted(held_out) == sorted(lesions)


def test_next_fold_validates(make):
    subjects = make(names(10))
    splits = [KFold(5, "next_fold").split(subjects, fold) for fold in range(5)]
    for fold, split in enumerate(splits):
        assert split.val == splits[(fold + 1) % 5].test
        assert len(split.train) == 6


def test_same_seed_same_folds_whatever_the_order(make):
    subjects = make(names(12))
    one = KFold(3, seed=4).split(subjects, 1)
    assert one == KFold(3, seed=4).split(subjects[::-1], 1)
    assert one != KFold(3, seed=5).split(subjects, 1)


def test_pairs_of_a_patient_stay_together(make):
    subjects = make(names(3), reverse=True)
    for fold in range(3):
        split = LeaveOneOut().split(subjects, fold, {s.id: True for s in subjects})
        assert [len(part) for part in parts(split)] == [2, 2, 2]
        for part in parts(split):
            assert len({name.removesuffix("_reversed") for name in part}) == 1
    assert refused(lambda: LeaveOneOut().split(subjects, 3)) is ExitCode.CONFIG


def test_validation_may_be_left_out(make):
    split = KFold(2, validation=0).split(make(names(4)), 0)
    assert split.val == () and len(split.train) == 2
    assert LeaveOneOut().split(make(names(2)), 0).val == ()  # one patient cannot be divided


def test_too_few(make):
    assert refused(lambda: KFold(5).split(make(names(4)), 0)) is ExitCode.DATA  # D18
    assert refused(lambda: LeaveOneOut().split(make(names(1)), 0)) is ExitCode.DATA  # D17
    subjects = make(names(10))
    few = {subject.id: subject.id in ("p00", "p01") for subject in subjects}
    assert refused(lambda: KFold(5).split(subjects, 0, few)) is ExitCode.DATA  # D19
    none = dict.fromkeys(few, False)
    assert refused(lambda: HoldOut().split(subjects, 0, none)) is ExitCode.DATA  # D20
    assert refused(lambda: KFold(5).split(subjects, 5)) is ExitCode.CONFIG
    assert refused(lambda: HoldOut(1.5).split(subjects)) is ExitCode.CONFIG


def test_hold_out_takes_its_share_of_each_kind(make):
    subjects = make(names(20), vendors=())
    lesions = {subject.id: number < 15 for number, subject in enumerate(subjects)}
    split = HoldOut(0.2).split(subjects, 0, lesions)
    assert len(split.test) == 4 and sum(lesions[name] for name in split.test) == 3
    assert split != HoldOut(0.2).split(subjects, 1, lesions)


def test_vendor_is_held_out(make):
    subjects = make(names(9), vendors=("Siemens", "Philips", "GE"))
    split = VendorHeldOut("ge").split(subjects)
    assert set(split.test) == {"p02", "p05", "p08"}
    assert refused(lambda: VendorHeldOut("Canon").split(subjects)) is ExitCode.DATA


def test_published_folds(make):
    ids = [f"{n:03d}" for group in ChallengeFolds.FOLDS for n in group]
    assert len(set(ids)) == 40
    # each published fold has 2 or 3 of the lesion-free patients
    free = {15, 19, 49, 51, 52, 68, 70, 84, 89, 90, 96}
    assert sorted(len(free & set(group)) for group in ChallengeFolds.FOLDS) == [2, 2, 2, 2, 3]
    split = ChallengeFolds().split(make(ids), 1)
    assert split.test == ("013", "020", "029", "039", "051", "069", "084", "094")
    assert ChallengeFolds().split(make(ids[:9]), 1).test == ("013",)
    assert refused(lambda: ChallengeFolds().split(make(["013", "014"]), 1)) is ExitCode.DATA


def test_file_comes_back(make, tmp_path):
    subjects = make(names(6))
    split = KFold(3).split(subjects, 1)
    write_split(tmp_path / "split.json", split)
    again = FromFile(tmp_path / "split.json").split(subjects)
    assert parts(again) == parts(split) and again.data_hash == split.data_hash
    own_fold = FromFile(tmp_path / "split.json").split(subjects, 1)  # the one it was written for
    assert parts(own_fold) == parts(split)
    assert refused(lambda: FromFile(tmp_path / "split.json").split(subjects, 2)) is ExitCode.CONFIG
    folds = {"folds": [dataclasses.asdict(KFold(3).split(subjects, n)) for n in range(3)]}
    (tmp_path / "all.json").write_text(json.dumps(folds))
    assert parts(FromFile(tmp_path / "all.json").split(subjects, 1)) == parts(split)
    assert refused(lambda: FromFile(tmp_path / "all.json").split(subjects, 3)) is ExitCode.CONFIG


def test_a_file_without_validation_gets_its_share_from_training_patients(make, tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"train": names(6)[:4], "test": names(6)[4:]}))
    split = FromFile(path, validation=0.25).split(make(names(6)))
    assert len(split.val) == 1 and len(split.train) == 3
    assert set(split.train) | set(split.val) == set(names(6)[:4])
    assert set(split.test) == set(names(6)[4:])


def test_file_of_other_data_is_refused(make, tmp_path, scan):
    subjects = make(names(6))
    path = tmp_path / "split.json"
    write_split(path, KFold(3).split(subjects, 0))
    assert refused(lambda: FromFile(path).split(subjects[1:])) is ExitCode.DATA  # D21: ids
    scan.write_bytes(scan.read_bytes()[:-1] + b"x")
    with pytest.raises(MssegError, match=r"split.other_data"):  # D21: same ids, other voxels
        FromFile(path).split(subjects)


def test_a_file_without_hash_is_remarked_unless_it_lies_with_the_data(make, tmp_path, caplog):
    subjects = make(names(6))
    own, other = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (own, other):
        folder.mkdir()
        (folder / "split.json").write_text(
            json.dumps({"train": names(6)[:4], "test": names(6)[4:]})
        )
    read = [dataclasses.replace(one, root=own) for one in subjects]
    FromFile(own / ".." / "data" / "split.json").split(read)
    assert not caplog.records
    for path, pairs in ((other, read), (own, subjects), (own, [*read[:5], subjects[5]])):
        caplog.clear()
        FromFile(path / "split.json").split(pairs)
        assert "no data_hash" in caplog.text  # of another cohort with the same ids, perhaps


def test_a_simulated_cohort_is_divided_without_a_warning(tiny_cohort, caplog):
    split = FromFile(tiny_cohort / "split.json").split(Msseg2(tiny_cohort).subjects())
    assert split.train == ("001", "002") and split.test == ("003", "004")
    assert not caplog.records


def test_torn_patient_is_refused(make, tmp_path):
    subjects = make(names(2), reverse=True)
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["p00", "p01"], "test": ["p00_reversed"]}))
    with pytest.raises(MssegError, match=r"split.patient_twice.*p00"):  # D22
        FromFile(path).split(subjects)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": 3}', '{"train": [1]}', "\ufffd"])
def test_other_files_are_no_splits(text, make, tmp_path):
    (tmp_path / "s.json").write_text(text)
    assert refused(lambda: FromFile(tmp_path / "s.json").split(make(names(2)))) is ExitCode.DATA


def test_a_split_file_that_is_not_there_is_named_in_full(make, tmp_path):
    with pytest.raises(MssegError) as caught:
        FromFile(tmp_path / "none.json").split(make(names(2)))
    (problem,) = caught.value.problems
    assert str(problem.file) == str(tmp_path / "none.json") and problem.field == "split.path"


def test_hash_sees_any_voxel_but_not_the_place(make, scan, tmp_path):
    subjects = make(names(2))
    before = data_hash(subjects)
    assert before == data_hash(subjects[::-1]) and len(before) == 16
    plain = tmp_path / "plain.nii"
    plain.write_bytes(bytes(100_000))
    one = [dataclasses.replace(subjects[0], images={BASELINE: plain, FOLLOWUP: scan})]
    first = data_hash(one)
    plain.write_bytes(bytes(50_000) + b"x" + bytes(49_999))
    assert data_hash(one) != first
    assert data_hash([dataclasses.replace(one[0], patient="other")]) != data_hash(one)
