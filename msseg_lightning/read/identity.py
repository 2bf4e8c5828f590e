"""Comparison of identifiers of patients, sessions and files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from msseg_lightning.core.paths import shown
from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import LongitudinalSubject


def folded(identifier: str, prefix: str = "sub-") -> str:
    """Identifier in lower case without the prefix of BIDS."""
    return identifier.strip().casefold().removeprefix(prefix)


def reduced(identifier: str, prefix: str = "sub-") -> str:
    """Identifier also without separators and leading zeros."""
    plain = folded(identifier, prefix)
    # a separator between two numbers keeps them apart: 1-12 is not 11-2
    plain = re.sub(r"(?<!\d)[-_ .]+|[-_ .]+(?!\d)", "", plain)
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def match(
    wanted: Iterable[str], known: Collection[str], prefix: str = "sub-"
) -> tuple[dict[str, str], list[str]]:
    """Assign the ids of a table to those of a data set.

    Equal ids first, then equal ones without case and prefix, then without leading zeros and
    separators; the looser ones only where they are unique on both sides.

    Returns:
        Id of the data set -> id of the table, and the table's ids that belong to none.
    """
    open_ids = dict.fromkeys(wanted)
    found: dict[str, str] = {}
    reductions: tuple[Callable[[str], str], ...] = (
        str,
        lambda name: folded(name, prefix),
        lambda name: reduced(name, prefix),
    )
    for reduction in reductions:
        left, right = _groups(open_ids, reduction), _groups(known, reduction)
        for key, names in left.items():
            places = right.get(key, ())
            if len(names) == 1 and len(places) == 1 and places[0] not in found:
                found[places[0]] = names[0]
                del open_ids[names[0]]
    return found, list(open_ids)


def same_patients(patients: Iterable[str], where: str) -> Iterator[Problem]:
    """Problems of patients that are, or probably are, one person under two names.

    One person under two names would stand on two sides of a split.
    """
    names = list(dict.fromkeys(patients))
    certain = [group for group in _groups(names, folded).values() if len(group) > 1]
    for group in certain:
        yield Problem(
            "patient.case",
            "names of patients differ only in upper and lower case or by 'sub-'",
            file=where,
            field="patient",
            found=", ".join(group),
            expected="one spelling for one patient",
            remedy="write the name of one patient in one way, and rename other patients",
        )
    firsts = [group[0] for group in _groups(names, folded).values()]
    for group in _groups(firsts, reduced).values():
        if len(group) > 1:
            yield Problem(
                "patient.similar",
                "names of patients differ only in leading zeros or separators; "
                "they are taken for different people",
                file=where,
                field="patient",
                found=", ".join(group),
                expected="one spelling for one patient",
                remedy="if they are one patient, write the name in one way; else nothing to do",
                severity="warning",
            )


def shared_scans(subjects: Iterable[LongitudinalSubject], where: str) -> Iterator[Problem]:
    """Problems of image files that are listed for two patients."""
    owners: dict[str, LongitudinalSubject] = {}
    for subject in subjects:
        for path in subject.images.values():
            first = owners.setdefault(os.path.realpath(path), subject)
            if first.patient != subject.patient:
                yield Problem(
                    "patient.shared_scan",
                    "one scan belongs to two patients",
                    file=where,
                    field=f"patient of {subject.id}",
                    found=f"{shown(path, subject.root)} is of {first.patient} and "
                    f"{subject.patient}",
                    expected="the same patient for all pairs of a scan",
                    remedy="give both pairs the same patient (in a table: column patient), or "
                    "leave one of them out",
                )
                break


def _groups(names: Iterable[str], reduction: Callable[[str], str]) -> dict[str, Sequence[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[reduction(name)].append(name)
    return dict(groups)
