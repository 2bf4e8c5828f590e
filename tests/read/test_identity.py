from __future__ import annotations

from pathlib import Path

import pytest

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.identity import match, same_patients, shared_scans


@pytest.mark.parametrize(
    ("names", "severity"),
    [
        (("MS01", "ms01"), "error"),
        (("sub-01", "01"), "error"),
        (("sub-MS01", "ms01"), "error"),
        (("MS01", "ms1"), "warning"),
        (("001", "1"), "warning"),
        (("MS-01", "MS_01", "MS01"), "warning"),
    ],
)
def test_one_patient_under_two_names(names, severity):
    (problem,) = same_patients(names, "table")
    assert problem.severity == severity and problem.found == ", ".join(names)


@pytest.mark.parametrize("names", [("1", "10"), ("1-12", "11-2"), ("a", "b"), ("MS1", "MT1")])
def test_different_patients(names):
    assert not list(same_patients(names, "table"))


def test_ids_of_a_table_find_those_of_the_data():
    found, rest = match(["1", "SUB-02", "7", "007", "9"], ["001", "02", "007"])
    assert found == {"001": "1", "02": "SUB-02", "007": "007"} and rest == ["7", "9"]
    assert match(["1", "01"], ["001"]) == ({}, ["1", "01"])  # which one is not known


def test_a_scan_of_two_patients(tmp_path):
    def pair(name, patient, scan):
        return LongitudinalSubject(name, patient, {"followup_flair": tmp_path / scan})

    (tmp_path / "link").symlink_to(tmp_path / "a")
    pairs = [pair("1", "A", "a"), pair("2", "A", "a"), pair("3", "B", "b")]
    assert not list(shared_scans(pairs, "data"))
    (problem,) = shared_scans([*pairs, pair("4", "C", Path("link"))], "data")
    assert "of A and C" in problem.found and problem.field == "patient of 4"
