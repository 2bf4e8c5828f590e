from __future__ import annotations

import pytest

from msseg_lightning.split.kfold import KFold
from tests.split.parts import names, parts


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


def test_one_fold_holds_out_everybody_and_is_refused():
    for folds in (1, 0, -3):
        with pytest.raises(ValueError, match="2 or more"):
            KFold(folds)
