from __future__ import annotations

from msseg_lightning.split.kfold import KFold
from msseg_lightning.split.leave_one_out import LeaveOneOut
from tests.split.parts import names


def test_validation_may_be_left_out(make):
    split = KFold(2, validation=0).split(make(names(4)), 0)
    assert split.val == () and len(split.train) == 2
    assert LeaveOneOut().split(make(names(2)), 0).val == ()  # one patient cannot be divided
