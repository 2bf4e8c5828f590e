from __future__ import annotations

from msseg_lightning.split.hold_out import HoldOut
from tests.split.parts import names


def test_hold_out_takes_its_share_of_each_kind(make):
    subjects = make(names(20), vendors=())
    lesions = {subject.id: number < 15 for number, subject in enumerate(subjects)}
    split = HoldOut(0.2).split(subjects, 0, lesions)
    assert len(split.test) == 4 and sum(lesions[name] for name in split.test) == 3
    assert split != HoldOut(0.2).split(subjects, 1, lesions)
