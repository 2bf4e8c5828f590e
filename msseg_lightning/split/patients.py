"""Stratified division of patients, whose pairs stay together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import LongitudinalSubject


@dataclasses.dataclass(frozen=True)
class Patient:
    """A patient with all pairs.

    Args:
        name: of the patient.
        pairs: ids of all pairs, in order.
        positive: whether any pair has new lesions; None where that is unknown.
        vendor: of the first pair whose vendor is known.
    """

    name: str
    pairs: tuple[str, ...]
    positive: bool | None
    vendor: str | None


def patients_of(
    subjects: Iterable[LongitudinalSubject], has_lesions: Mapping[str, bool] | None
) -> list[Patient]:
    """Patients in order of name.

    Args:
        subjects: all pairs.
        has_lesions: id -> whether the pair has new lesions, where that is known.
    """
    pairs: dict[str, list[LongitudinalSubject]] = {}
    for subject in subjects:
        pairs.setdefault(subject.patient, []).append(subject)
    found = []
    for name in sorted(pairs):
        known = [
            has_lesions[subject.id]
            for subject in pairs[name]
            if has_lesions is not None and subject.id in has_lesions
        ]
        vendors = [subject.facts.vendor for subject in pairs[name] if subject.facts.vendor]
        found.append(
            Patient(
                name,
                tuple(sorted(subject.id for subject in pairs[name])),
                any(known) if known else None,
                vendors[0] if vendors else None,
            )
        )
    return found


def pair_ids(patients: Iterable[Patient]) -> tuple[str, ...]:
    """Ids of all pairs of some patients, in order."""
    return tuple(sorted(pair for patient in patients for pair in patient.pairs))


def deal(
    patients: Sequence[Patient], parts: int, seed: int | None = None, by_vendor: bool = True
) -> list[list[Patient]]:
    """Divide patients into stratified parts of nearly equal size.

    Kinds are patients with and without new lesions, of each vendor. One kind after the other is
    dealt in turn, those with new lesions first, and the turn goes on from kind to kind: so the
    parts differ by one patient at most, and by one patient with new lesions at most.

    Args:
        patients: all of them.
        parts: how many.
        seed: shuffles each kind; None takes patients in the order given.
        by_vendor: whether vendors are kinds of their own.
    """
    groups: list[list[Patient]] = [[] for _ in range(parts)]
    turn = 0
    for number, kind in enumerate(_kinds(patients, by_vendor)):
        ordered = kind if seed is None else _shuffled(kind, seed, "kfold", number)
        for patient in ordered:
            groups[turn % parts].append(patient)
            turn += 1
    return groups


def draw(
    patients: Sequence[Patient], share: float, seed: int, purpose: str
) -> tuple[list[Patient], list[Patient]]:
    """Draw about ``share`` of the patients, stratified, at least one; return them and the rest.

    Args:
        patients: all of them.
        share: above 0 and below 1.
        seed: of the draw.
        purpose: what is drawn; another purpose draws others.
    """
    wanted = min(max(1, round(share * len(patients))), len(patients) - 1)
    ranked: list[tuple[float, int, Patient]] = []
    for number, kind in enumerate(_kinds(patients)):
        for place, patient in enumerate(_shuffled(kind, seed, purpose, number)):
            # the middle of each share of its kind: small draws take from all kinds in turn
            ranked.append(((place + 0.5) / len(kind), number, patient))
    ranked.sort(key=lambda item: item[:2])
    chosen = [patient for _, _, patient in ranked[:wanted]]
    return chosen, without(patients, chosen)


def without(patients: Iterable[Patient], others: Iterable[Patient]) -> list[Patient]:
    """Patients that are not among others, in order."""
    names = {patient.name for patient in others}
    return [patient for patient in patients if patient.name not in names]


def refuse_without_lesions(patients: Sequence[Patient]) -> None:
    """Refuse patients none of whom has new lesions.

    Raises:
        MssegError: no patient has new lesions (exit 3).
    """
    if patients and all(patient.positive is False for patient in patients):
        raise MssegError(
            Problem(
                "data.all_empty",
                "no pair has a new lesion: there is nothing to learn",
                field="new_lesions",
                found=f"{len(patients)} patients, all masks empty",
                expected="some new lesions",
                remedy="check that the right masks are read",
            )
        )


def need(found: int, needed: int, what: str) -> None:
    """Check that there are enough patients for a split.

    Raises:
        MssegError: there are fewer than needed (exit 3).
    """
    if found < needed:
        raise MssegError(
            Problem(
                "split.too_few",
                f"too few {what} for this split",
                field="split",
                found=f"{found} {what}",
                expected=f"at least {needed}",
                remedy="split.folds=2, or split=leave_one_out, or add patients",
            )
        )


def _kinds(patients: Iterable[Patient], by_vendor: bool = True) -> list[list[Patient]]:
    """Strata of patients by new lesions and vendor."""
    groups: dict[tuple[str, str], list[Patient]] = {}
    for patient in patients:
        vendor = (patient.vendor or "") if by_vendor else ""
        groups.setdefault((str(patient.positive), vendor), []).append(patient)
    return [groups[key] for key in sorted(groups, reverse=True)]


def _shuffled(patients: Sequence[Patient], *key: int | str) -> list[Patient]:
    order = keyed_generator(*key).permutation(len(patients))
    return [patients[index] for index in order]
