from __future__ import annotations

import sys

import pytest

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.split.from_file import FromFile
from msseg_lightning.split.hold_out import HoldOut
from msseg_lightning.split.kfold import KFold
from msseg_lightning.split.leave_one_out import LeaveOneOut
from msseg_lightning.split.patients import Patient, deal, draw, pair_ids, patients_of
from msseg_lightning.split.split import write_split
from msseg_lightning.split.vendor_held_out import VendorHeldOut
from tests.split.parts import names, refused


def patients(count: int, positive: int, vendors: str = "") -> list[Patient]:
    """The first ones have new lesions; vendors are single letters, in turn."""
    return [
        Patient(name, (name,), number < positive, vendors[number % len(vendors)] if vendors else "")
        for number, name in enumerate(names(count))
    ]


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("vendors", ["", "SPG"])
@pytest.mark.parametrize(
    ("count", "positive", "parts"), [(12, 3, 3), (12, 4, 3), (11, 5, 4), (40, 29, 5)]
)
def test_every_part_has_its_share(count, positive, parts, vendors, seed):
    groups = deal(patients(count, positive, vendors), parts, seed)
    assert sorted(one.name for group in groups for one in group) == names(count)
    sizes = [len(group) for group in groups]
    lesions = [sum(bool(one.positive) for one in group) for group in groups]
    for each in (sizes, lesions):
        assert max(each) - min(each) <= 1
    for vendor in vendors:  # evenly among those with and among those without new lesions
        share = [sum(one.vendor == vendor for one in group) for group in groups]
        assert max(share) - min(share) <= 2


def test_without_a_seed_patients_are_dealt_in_order():
    (first, second) = deal(patients(5, 2), 2)
    assert [one.name for one in first] == ["p00", "p02", "p04"]
    assert [one.name for one in second] == ["p01", "p03"]


def test_vendors_may_be_left_out_of_account():
    """By vendor S, G: p00 and p02 (S) would be dealt first, then p01 and p03 (G)."""
    plain = deal(patients(4, 4, "SG"), 2, by_vendor=False)
    assert [[one.name for one in group] for group in plain] == [["p00", "p02"], ["p01", "p03"]]
    spread = deal(patients(4, 4, "SG"), 2)
    assert [{one.vendor for one in group} for group in spread] == [{"S", "G"}, {"S", "G"}]


def test_a_draw_leaves_the_rest_in_order():
    everyone = patients(20, 15)
    chosen, rest = draw(everyone, 0.2, 3, "purpose")
    assert len(chosen) == 4 and sum(bool(one.positive) for one in chosen) == 3
    assert rest == [one for one in everyone if one not in chosen]
    assert draw(everyone, 0.2, 3, "purpose") == (chosen, rest) != draw(everyone, 0.2, 3, "other")


def test_one_pair_with_lesions_makes_a_patient_positive(make):
    subjects = make(["b", "a"], vendors=("", "GE"), reverse=True)
    a, b = patients_of(subjects, {"a": False, "a_reversed": True, "b": False})
    assert (a.name, a.pairs, a.positive, a.vendor) == ("a", ("a", "a_reversed"), True, "GE")
    assert (b.positive, b.vendor) == (False, None)
    assert [one.positive for one in patients_of(subjects, None)] == [None, None]
    assert pair_ids([b, a]) == ("a", "a_reversed", "b", "b_reversed")


def test_too_few_patients_are_refused(make):
    assert refused(lambda: KFold(5).split(make(names(4)), 0)) is ExitCode.DATA
    assert refused(lambda: LeaveOneOut().split(make(names(1)), 0)) is ExitCode.DATA
    subjects = make(names(10))
    few = {subject.id: subject.id in ("p00", "p01") for subject in subjects}
    assert refused(lambda: KFold(5).split(subjects, 0, few)) is ExitCode.DATA
    none = dict.fromkeys(few, False)
    assert refused(lambda: HoldOut().split(subjects, 0, none)) is ExitCode.DATA


def calls(action) -> int:
    """Calls of functions, of Python's and others: no other process disturbs this measure."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", [KFold, LeaveOneOut, HoldOut, VendorHeldOut, FromFile])
def test_work_grows_with_the_number_of_patients(kind, make, tmp_path):
    """Eight times the patients are at most ten times the calls; pair by pair it would be 64."""

    def work(count: int) -> int:
        subjects = make(names(count), vendors=("Siemens", "GE"))
        rule = kind() if kind is not FromFile else kind(tmp_path / "split.json", validation=0.2)
        if kind is FromFile:
            write_split(tmp_path / "split.json", HoldOut(validation=0).split(subjects))
        lesions = {subject.id: index % 3 == 0 for index, subject in enumerate(subjects)}
        return calls(lambda: rule.split(subjects, 0, lesions))

    assert work(400) < 10 * work(50)
