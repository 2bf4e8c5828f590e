from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.split.kfold import KFold
from msseg_lightning.split.leave_one_out import LeaveOneOut
from msseg_lightning.split.validation import share_of
from tests.split.parts import names


def test_validation_may_be_left_out(make):
    split = KFold(2, validation=0).split(make(names(4)), 0)
    assert split.val == () and len(split.train) == 2
    assert LeaveOneOut().split(make(names(2)), 0).val == ()  # one patient cannot be divided


def test_a_share_is_below_one_and_the_next_fold_is_none():
    assert share_of(0.25) == 0.25 and share_of(0) == 0
    for wrong in (1.0, -0.1, "following"):
        with pytest.raises(MssegError) as caught:
            share_of(wrong)
        assert caught.value.exit_code == ExitCode.CONFIG
