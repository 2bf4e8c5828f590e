from __future__ import annotations

import logging
from pathlib import Path

import pytest

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.reader import check_ids, existing_root, read_subjects
from tests.read import files


class Fixed:
    def subjects(self):
        return [LongitudinalSubject("a", "a", {})]

    def skipped(self):
        return [Problem("unused.row", "x"), Problem("unused.row", "y"), Problem("unused.mask", "z")]

    def order(self):
        return []


def test_what_was_not_used_is_logged_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        assert [subject.id for subject in read_subjects(Fixed())] == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        "left out or not used while reading: 1 unused.mask, 2 unused.row; `msseg check` names them"
    ]


def test_patients_are_compared_too():
    def codes(*patients):
        subjects = [LongitudinalSubject(f"p{n}", name, {}) for n, name in enumerate(patients)]
        return [problem.code for problem in check_ids(subjects, "table")]

    assert codes("MS01", "ms01") == ["patient.case"]
    assert codes("MS01", "MS01") == []
    same = [LongitudinalSubject(name, name, {}) for name in ("MS01", "ms01")]
    assert [problem.code for problem in check_ids(same, "table")] == ["id.case"]  # told once


def test_a_data_root_may_be_below_a_home_or_be_called_like_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for folder in ("~nobody", "~nobody/scans", "me/scans", "~"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    assert existing_root("~nobody/scans") == Path("~nobody/scans")
    assert existing_root("~/scans") == tmp_path / "me" / "scans"
    with pytest.raises(MssegError) as caught:
        existing_root("~none_such/scans")
    assert caught.value.problems[0].code == "data.root"


def test_hidden_folders_are_no_patients(tmp_path):
    files.good_pair(tmp_path)
    for name in (".partial-0123456789ab-1-01234567-014", ".git", ".snapshots"):
        (tmp_path / name).mkdir()
    reader = Msseg2(tmp_path)
    assert [one.id for one in reader.subjects()] == ["013"] and reader.skipped() == []
