from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.split.challenge_folds import ChallengeFolds
from tests.split.parts import refused


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


def test_no_patient_is_lost_whose_name_is_the_same_number(make):
    split = ChallengeFolds(validation=0).split(make(["013", "sub-013", "019"]), 1)
    assert split.test == ("013", "sub-013") and split.train == ("019",)
    with pytest.raises(MssegError) as caught:
        ChallengeFolds().split(make(["013", "x", "y"]))
    assert caught.value.problems[0].found == "x, y"
