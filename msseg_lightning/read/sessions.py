"""Ordering of a patient's sessions by setting, dates, numbers or words in labels."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from msseg_lightning.core.problem import Problem

Dates = Mapping[str, datetime.datetime]
"""Date of each session from one source."""

_DAYS = {"d": 1.0, "w": 7.0, "m": 30.4375, "y": 365.25}
_UNITS = {
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), "w"),
    **dict.fromkeys(("m", "mo", "mos", "mth", "mths", "mon", "month", "months"), "m"),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), "y"),
}
_CLOSE = 0.1
"""Tolerance below which durations in different units, such as 12 months and 1 year, are equal."""

_ORDINALS = {
    word: number
    for words in (
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"),
    )
    for number, word in enumerate(words, start=1)
}
_START = ("baseline", "base", "bl", "pre", "before", "initial", "first")
_LATER = ("followup", "follow", "fup", "fu", "post", "after", "later")
_WORDS = {
    **dict.fromkeys(("screening", "screen", "prebaseline"), -1),
    **dict.fromkeys(_START, 0),
    **dict.fromkeys(("during", "mid", "interim"), 1),
    **dict.fromkeys(_LATER, 2),
    **dict.fromkeys(("last", "final", "end", "exit"), 3),
}


@dataclasses.dataclass(frozen=True)
class SessionOrder:
    """Sessions from first to last, and the source of the order.

    Args:
        sessions: labels with ``ses-``.
        reason: the sources that decided, in plain words.
        days: date of each session in days of the calendar, where dates are known and agree.
    """

    sessions: tuple[str, ...]
    reason: str
    days: Mapping[str, int]

    def interval_days(self, first: str, second: str) -> float | None:
        """Days from one session to another; None if a date is unknown."""
        if first not in self.days or second not in self.days:
            return None
        return float(self.days[second] - self.days[first])

    def __str__(self) -> str:
        return f"{', '.join(self.sessions)} ({self.reason})"


Compare = Callable[[str, str], int]
"""Comparison of sessions: negative if the first is earlier, 0 if the source does not tell."""


def order_sessions(
    sessions: Sequence[str],
    dates: Mapping[str, Dates],
    subject: str,
    given: Sequence[str] = (),
) -> tuple[SessionOrder, list[Problem]]:
    """Sort the sessions of one patient by time.

    For every two sessions the first source that tells them apart decides: ``given``, dates, numbers
    in the labels, well-known words in them.

    Args:
        sessions: labels with ``ses-``.
        dates: name of a source -> its dates, the most trusted first.
        subject: whose sessions, for messages.
        given: labels in order of time, with or without ``ses-``, as the user states it.

    Returns:
        The order, and problems: an error where no source tells two sessions apart, or where dates
        of two sources contradict each other about the order; warnings about other contradictions.
        With an error the order means nothing.
    """
    sources: list[tuple[str, Compare]] = [("read.session_order", _by_list(given))] if given else []
    sources += [(f"dates of {name}", _by_date(known)) for name, known in dates.items()]
    sources += [("numbers in the labels", by_number), ("words in the labels", by_word)]
    problems: list[Problem] = []
    used: dict[str, None] = {}
    undecided: dict[str, None] = {}
    trusted = True
    for first, second in itertools.combinations(sorted(sessions), 2):
        signs = {name: sign for name, compare in sources if (sign := compare(first, second))}
        if not signs:
            undecided |= dict.fromkeys((first, second))
            continue
        winner, *others = signs
        used[winner] = None
        against = [name for name in others if signs[name] * signs[winner] < 0]
        if not against:
            continue
        dated = any(name.startswith("dates") for name in against)
        refused = dated and winner.startswith("dates")
        problems.append(_contradiction(first, second, winner, against, subject, refused))
        trusted = trusted and not dated
    if undecided:
        problems.append(_undecided(tuple(undecided), subject))
    problems += _different_dates(sessions, dates, subject)

    def compare(first: str, second: str) -> int:
        for _, compare in sources:
            if sign := compare(first, second):
                return sign
        return 0

    ordered = tuple(sorted(sorted(sessions), key=functools.cmp_to_key(compare)))
    sound = not any(problem.severity == "error" for problem in problems)
    if sound and any(compare(a, b) > 0 for a, b in itertools.combinations(ordered, 2)):
        problems.append(_circle(ordered, subject))
    days: dict[str, int] = {}
    if trusted:
        for known in reversed(tuple(dates.values())):
            days |= {session: when.toordinal() for session, when in known.items()}
    return SessionOrder(ordered, " and ".join(used) or "one session", days), problems


def read_date(text: str) -> datetime.datetime | None:
    """A date in one of the forms of BIDS and DICOM; None where it is none.

    ``2021-05-03``, ``2021-05-03T10:30:00[.000][Z]``, ``20210503``, ``20210503103000.000``. Clock
    time counts where it stands; time zones are left out.
    """
    text = text.strip().replace("/", "-").removesuffix("Z").removesuffix("z")
    if match := re.fullmatch(r"(\d{8})(\d{6})(?:\.\d+)?([+-]\d{4})?", text):
        text = f"{match[1]}T{match[2]}"
    if not re.match(r"\d{4}-?\d{2}-?\d{2}", text):
        return None
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None


def by_number(first: str, second: str) -> int:
    """Compare labels by their numbers, where both have the same form or are durations."""
    if re.search(r"[A-Za-z]-\d", first[4:] + " " + second[4:]):  # m-6: six months before
        return 0
    one, other = _plain(first), _plain(second)
    if _is_date(one) != _is_date(other) and (one + other).isdigit():
        return 0
    dates = _dates_in_labels(one, other)
    if dates is not None:
        return dates
    one, other = (str(_ORDINALS.get(label, label)) for label in (one, other))
    if _form(one) == _form(other):
        return _sign(_numbers(one), _numbers(other))
    length, other_length = _duration(one), _duration(other)
    if length is None or other_length is None:
        return 0
    if abs(length - other_length) <= _CLOSE * max(length, other_length):
        return 0
    return _sign(length, other_length)


def by_word(first: str, second: str) -> int:
    """Compare labels by words such as baseline and followup."""
    one, other = _plain(first), _plain(second)
    for before, after in (("pre", "post"), ("before", "after")):  # preop, postop
        for early, late, sign in ((one, other, -1), (other, one, 1)):
            if early.startswith(before) and late == after + early.removeprefix(before):
                return sign
            if late == "re" + early:  # test, retest
                return sign
    (word, number), (other_word, other_number) = _word(one), _word(other)
    rank, other_rank = _WORDS.get(word), _WORDS.get(other_word)
    if rank is not None and other_rank is not None:
        if rank == other_rank and word != other_word:
            return 0
        return _sign((rank, number), (other_rank, other_number))
    # a start beside numbers: baseline, then 1, V1, m6, 1y
    if rank is not None and rank <= 0 and other_rank is None:
        return -1 if any(_numbers(other)) else 0
    if other_rank is not None and other_rank <= 0 and rank is None:
        return 1 if any(_numbers(one)) else 0
    return 0


def _by_list(given: Sequence[str]) -> Compare:
    places = {_label(str(session)): place for place, session in enumerate(given)}

    def compare(first: str, second: str) -> int:
        one, other = places.get(_label(first)), places.get(_label(second))
        return 0 if one is None or other is None else _sign(one, other)

    return compare


def _by_date(known: Dates) -> Compare:
    def compare(first: str, second: str) -> int:
        one, other = known.get(first), known.get(second)
        if one is None or other is None:
            return 0
        return _sign(one, other) if one.date() != other.date() or _timed(one, other) else 0

    return compare


def _timed(one: datetime.datetime, other: datetime.datetime) -> bool:
    """Whether both dates have a time of day, which is needed on equal days."""
    return one.time() != datetime.time() and other.time() != datetime.time()


def _label(session: str) -> str:
    label = session.removeprefix("ses-")
    return label.lstrip("0") or "0" if label.isdigit() else label


def _plain(session: str) -> str:
    return re.sub(r"[^a-z0-9]", "", session.removeprefix("ses-").casefold())


def _form(label: str) -> tuple[str, ...]:
    return tuple(re.split(r"\d+", label))


def _numbers(label: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", label))


def _word(label: str) -> tuple[str, int]:
    """A word of a label and the number after it, by default 1."""
    match = re.fullmatch(r"([a-z]+)(\d*)", label)
    if match is None:
        return "", 0
    return match[1], int(match[2] or 1)


def _duration(label: str) -> float | None:
    """Days of labels such as m6, 6m, month6, 1y6m."""
    for pattern, unit, number in ((r"(\d+)([a-z]+)", 2, 1), (r"([a-z]+)(\d+)", 1, 2)):
        parts = list(re.finditer(pattern, label))
        if parts and "".join(part[0] for part in parts) == label:
            if not all(part[unit] in _UNITS for part in parts):
                return None
            return sum(int(part[number]) * _DAYS[_UNITS[part[unit]]] for part in parts)
    return None


def _dates_in_labels(one: str, other: str) -> int | None:
    """Labels that are dates: no order where day, month and year could stand in several orders."""
    for length, forms in ((8, ("%Y%m%d", "%d%m%Y", "%m%d%Y")), (6, ("%y%m%d", "%d%m%y", "%m%d%y"))):
        if not (len(one) == len(other) == length and (one + other).isdigit()):
            continue
        signs = {
            _sign(first, second)
            for form in forms
            if (first := _date_in(one, form)) and (second := _date_in(other, form))
        }
        if signs:
            return signs.pop() if len(signs) == 1 else 0
    return None


def _is_date(label: str) -> bool:
    return len(label) == 8 and _date_in(label, "%Y%m%d") is not None


def _date_in(label: str, form: str) -> datetime.datetime | None:
    try:
        date = datetime.datetime.strptime(label, form)
    except ValueError:
        return None
    return date if 1800 <= date.year < 2200 else None


def _sign(one: object, other: object) -> int:
    return (one > other) - (one < other)  # type: ignore[operator]  # both of one ordered type


def _undecided(sessions: Sequence[str], subject: str) -> Problem:
    labels = [label.removeprefix("ses-") for label in sessions]
    return Problem(
        "bids.order",
        "which of these sessions is the earlier one is not known",
        file=subject,
        field="ses-*",
        found=", ".join(sessions),
        expected="dates, numbers or words such as baseline and followup that give an order of time",
        remedy="give their order, the earliest first, e.g. "
        f"'read.session_order=[{','.join(labels)}]', or dates in "
        f"{subject}/{subject}_sessions.tsv (columns session_id and acq_time)",
    )


def _contradiction(
    first: str, second: str, winner: str, against: Sequence[str], subject: str, refused: bool
) -> Problem:
    labels = ",".join(label.removeprefix("ses-") for label in (first, second))
    return Problem(
        "bids.order_contradiction",
        "sources contradict each other about which session is the earlier one"
        + ("" if refused else f"; {winner} decided"),
        file=subject,
        field=f"{first}, {second}",
        found=f"{winner} against {' and '.join(against)}",
        expected="one order of time",
        remedy="correct the dates, or give the order, the earliest first, e.g. "
        f"'read.session_order=[{labels}]'"
        if refused
        else "nothing to do where that is right; else correct it",
        severity="error" if refused else "warning",
    )


def _circle(ordered: Sequence[str], subject: str) -> Problem:
    labels = ",".join(label.removeprefix("ses-") for label in ordered)
    return Problem(
        "bids.order",
        "dates and labels of the sessions together give no order",
        file=subject,
        field="ses-*",
        found=", ".join(ordered),
        expected="an order of time",
        remedy=f"give the order, the earliest first, e.g. 'read.session_order=[{labels}]'",
    )


def _different_dates(
    sessions: Sequence[str], dates: Mapping[str, Dates], subject: str
) -> Iterator[Problem]:
    """Problems of sources that give different days for one session."""
    for (name, known), (other_name, other) in itertools.combinations(dates.items(), 2):
        differing = [
            session
            for session in sorted(sessions)
            if session in known
            and session in other
            and known[session].date() != other[session].date()
        ]
        if differing:
            yield Problem(
                "bids.dates",
                "two sources give one session different dates; the first decided",
                file=subject,
                field=", ".join(differing),
                found=f"{name} against {other_name}",
                expected="one date",
                remedy="correct the one that is wrong, or nothing where the order is right",
                severity="warning",
            )
