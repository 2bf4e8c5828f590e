from __future__ import annotations

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.split.leave_one_out import LeaveOneOut
from tests.split.parts import names, parts, refused


def test_pairs_of_a_patient_stay_together(make):
    subjects = make(names(3), reverse=True)
    for fold in range(3):
        split = LeaveOneOut().split(subjects, fold, {s.id: True for s in subjects})
        assert [len(part) for part in parts(split)] == [2, 2, 2]
        for part in parts(split):
            assert len({name.removesuffix("_reversed") for name in part}) == 1
    assert refused(lambda: LeaveOneOut().split(subjects, 3)) is ExitCode.CONFIG
