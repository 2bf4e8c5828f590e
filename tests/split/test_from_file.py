from __future__ import annotations

import dataclasses
import json

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.split.from_file import FromFile
from msseg_lightning.split.kfold import KFold
from msseg_lightning.split.split import write_split
from tests.split.parts import names, parts, refused


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


OTHER_FILES = [
    "",
    "[]",
    "{}",
    "\ufffd",
    '{"train": 3}',
    '{"train": [1]}',
    '{"train": "p00"}',
    '{"train": {"p00": 1}}',
    '{"train": ["p00"], "val": null}',
    '{"train": ["p00"], "seed": "x"}',
    '{"folds": []}',
    '{"folds": {"train": ["p00"]}}',
]


@pytest.mark.parametrize("text", OTHER_FILES)
def test_other_files_are_no_splits(text, make, tmp_path):
    (tmp_path / "s.json").write_text(text)
    assert refused(lambda: FromFile(tmp_path / "s.json").split(make(names(2)))) is ExitCode.DATA


def test_a_split_file_that_is_not_there_is_named_in_full(make, tmp_path):
    with pytest.raises(MssegError) as caught:
        FromFile(tmp_path / "none.json").split(make(names(2)))
    (problem,) = caught.value.problems
    assert str(problem.file) == str(tmp_path / "none.json") and problem.field == "split.path"


@pytest.mark.parametrize(
    ("division", "field", "found"),
    [
        ({"train": ["p00", "p01", "p00"], "test": ["p02"]}, "train", "p00"),
        ({"train": ["p00"], "val": ["p01", "p01"]}, "val", "p01"),
        ({"folds": [{"train": ["p00"], "test": ["p02", "p03", "p03", "p02"]}]}, "test", "p02, p03"),
    ],
    ids=["train", "val", "test of a fold"],
)
def test_an_id_twice_is_refused(division, field, found, make, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(division))
    with pytest.raises(MssegError, match=r"split.id_twice") as caught:
        FromFile(path).split(make(names(4)))
    (problem,) = caught.value.problems
    assert (problem.field, problem.found) == (field, found)
