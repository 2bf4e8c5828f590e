from __future__ import annotations

import datetime

import pytest

from msseg_lightning.read.sessions import order_sessions, read_date


def ordered(labels, dates=None, given=()):
    sessions = [f"ses-{label}" for label in labels]
    order, problems = order_sessions(sessions, dates or {}, "sub-A", given)
    return [label.removeprefix("ses-") for label in order.sessions], problems, order


def day(text):
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "labels",
    [
        ("2", "10"),
        ("m0", "m6", "m12"),
        ("M6", "m12"),
        ("1y", "2y", "10y"),
        ("6m", "1y", "18m", "2y"),  # 183, 365, 548 and 731 days
        ("4w", "6m"),
        ("y1m6", "y1m10", "y2m1"),
        ("pre", "post"),
        ("baseline", "followup"),
        ("BL", "FU1", "FU2", "FU10"),
        ("baseline", "followup", "followup2"),
        ("bl", "m6", "m12"),
        ("preop", "postop"),
        ("screening", "baseline", "month3"),
        ("second", "third", "tenth")[:2],
        ("test", "retest"),
        ("20191231", "20200101"),
        ("31122019", "01012020"),  # day, month, year: the year tells
        ("V02", "V10"),
    ],
)
def test_labels_that_tell_time(labels):
    for given in (labels, labels[::-1]):
        found, problems, _ = ordered(given)
        assert found == list(labels) and not problems


@pytest.mark.parametrize(
    "labels",
    [
        ("red", "blue"),
        ("A", "B"),
        ("12m", "1y"),
        ("01022020", "03012020"),  # 1 February and 3 January, or 2 January and 1 March
        ("01", "1"),
        ("1", "followup"),
        ("post", "followup"),
        ("control", "1"),
    ],
)
def test_labels_that_do_not_are_refused_until_the_user_says_it(labels):
    _, (problem,), _ = ordered(labels)
    assert problem.code == "bids.order" and problem.severity == "error"
    if labels != ("01", "1"):  # one number: no list tells these apart
        text = problem.remedy.split("session_order=[")[1].split("]")[0]
        found, problems, order = ordered(labels, given=text.split(","))
        assert found == text.split(",") and not problems
        assert order.reason == "read.session_order"


def test_dates_go_before_numbers_and_their_contradiction_is_named():
    dates = {"x.tsv": {"ses-1": day("2021-03-01"), "ses-2": day("2020-01-01")}}
    found, (problem,), order = ordered(("1", "2"), dates)
    assert found == ["2", "1"] and order.reason == "dates of x.tsv"
    assert problem.severity == "warning" and "dates of x.tsv against numbers" in problem.found
    assert order.interval_days("ses-2", "ses-1") == 425  # 366 of 2020, 31 and 28


def test_two_sources_of_dates_that_contradict_each_other_are_refused():
    early, late = day("2020-01-01"), day("2021-01-01")
    dates = {"x": {"ses-1": early, "ses-2": late}, "y": {"ses-1": late, "ses-2": early}}
    _, problems, _ = ordered(("1", "2"), dates)
    assert {p.code for p in problems if p.severity == "error"} == {"bids.order_contradiction"}
    found, problems, order = ordered(("1", "2"), dates, given=("1", "2"))
    assert found == ["1", "2"] and {p.severity for p in problems} == {"warning"}
    assert order.interval_days("ses-1", "ses-2") is None  # which dates are right is not known


def test_dates_of_some_sessions_and_equal_dates():
    known = {"x": {"ses-b": day("2020-01-01"), "ses-a": day("2021-01-01")}}
    assert ordered(("a", "b"), known)[0] == ["b", "a"]
    _, (problem,), _ = ordered(("a", "b", "c"), known)
    assert problem.code == "bids.order"
    same = {"x": {"ses-2": day("1900-01-01"), "ses-10": day("1900-01-01")}}
    found, problems, order = ordered(("10", "2"), same)
    assert found == ["2", "10"] and not problems and order.reason == "numbers in the labels"
    timed = {"x": {"ses-b": day("2020-01-01T08:00"), "ses-a": day("2020-01-01T17:00")}}
    assert ordered(("a", "b"), timed)[0] == ["b", "a"]


def test_a_user_may_state_the_order_against_everything():
    dates = {"x": {"ses-1": day("2020-01-01"), "ses-2": day("2021-01-01")}}
    found, (problem,), order = ordered(("1", "2"), dates, given=("ses-2", "ses-1"))
    assert found == ["2", "1"] and problem.severity == "warning"
    assert order.interval_days("ses-2", "ses-1") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-05-03", "2021-05-03"),
        ("2021-05-03T10:30:00", "2021-05-03T10:30"),
        ("2021-05-03T10:30:00.250Z", "2021-05-03T10:30:00.250"),
        ("2021/05/03", "2021-05-03"),
        ("20210503", "2021-05-03"),
        ("20210503103000.000000", "2021-05-03T10:30"),
        ("2021-05-03T10:30:00+02:00", "2021-05-03T10:30"),
        ("03.05.2021", None),
        ("2021-13-01", None),
        ("", None),
    ],
)
def test_dates(text, expected):
    assert read_date(text) == (None if expected is None else day(expected))


@pytest.mark.parametrize(
    "labels", [("m-6", "m0"), ("w-2", "w4"), ("20200101", "1"), ("20190101", "2")]
)
def test_numbers_that_count_different_things_give_no_order(labels):
    _, (problem,) = order_sessions([f"ses-{label}" for label in labels], {}, "sub-A")
    assert problem.code == "bids.order" and problem.severity == "error"
