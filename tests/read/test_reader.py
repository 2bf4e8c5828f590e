from __future__ import annotations

import logging

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.reader import check_ids, read_subjects


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
