"""Division of patients into training, validation and test sets."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msseg_lightning.core.files import read_record, write_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.paths import resolve_file, shown

logger = logging.getLogger(__name__)

Validation = float | Literal["next_fold"]
"""Validation patients: a share of the training patients (at least one), or the whole next fold."""

PARTS = ("train", "val", "test")
_EDGE_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Split:
    """A division of a data set, by ids of pairs.

    Args:
        train: for fitting.
        val: for choosing checkpoints and settings; may be empty.
        test: held out.
        kind: what made it, e.g. ``kfold``.
        fold: which of its folds.
        seed: of the shuffling.
        data_hash: of the data it belongs to.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    kind: str
    fold: int
    seed: int
    data_hash: str


def data_hash(subjects: Iterable[LongitudinalSubject]) -> str:
    """16 hex digits that change when ids, patients or files change; cheap on large data sets.

    Of each file the name, the size, and the first and last 4 KiB count. A gzip stream ends with
    the checksum and the length of all it holds, so no voxel changes unnoticed; uncompressed files
    are hashed whole.
    """
    digest = hashlib.sha256()
    for subject in sorted(subjects, key=lambda subject: subject.id):
        digest.update(f"{subject.id}\0{subject.patient}\0".encode())
        for name, way in sorted(subject.to_native.items()):
            digest.update(f"{name}\0".encode() + np.ascontiguousarray(way, np.float64).tobytes())
        for name, path in sorted(subject.files().items()):
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as stream:
                head = stream.read(_EDGE_BYTES)
                digest.update(head)
                if head[:2] == b"\x1f\x8b":
                    stream.seek(max(0, path.stat().st_size - _EDGE_BYTES))
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


def write_split(path: Path, split: Split) -> None:
    """Write a split file; :class:`FromFile` reads it."""
    write_record(path, dataclasses.asdict(split))


class KFold:
    """K-fold cross-validation, stratified by whether patients have new lesions.

    Patients are shuffled inside each group (new lesions yes or no, and vendor where known) and
    dealt out in turn, so that every group is spread evenly.

    Args:
        folds: how many.
        validation: see :data:`Validation`.
        seed: of the shuffling; kept apart from the seed of training, so that repetitions see the
            same folds.
    """

    def __init__(self, folds: int = 5, validation: Validation = 0.1, seed: int = 0) -> None:
        self.folds, self.validation, self.seed = folds, validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The division of one fold.

        Raises:
            MssegError: fewer patients than folds, a fold that would have no patient with new
                lesions, no lesions at all (exit 3); no such fold (exit 2).
        """
        _check_fold(fold, self.folds)
        patients = _patients(subjects, has_lesions)
        _refuse_without_lesions(patients)
        _need(len(patients), self.folds, "patients")
        positive = sum(patient.positive is True for patient in patients)
        if positive:
            _need(positive, self.folds, "patients with new lesions")
        groups = _deal(patients, self.folds, self.seed)
        return _from_groups("kfold", groups, fold, self.validation, self.seed, subjects)


class LeaveOneOut:
    """Leave-one-out cross-validation over patients.

    Args:
        validation: see :data:`Validation`.
        seed: of the choice of validation patients.
    """

    def __init__(self, validation: Validation = 0.1, seed: int = 0) -> None:
        self.validation, self.seed = validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """Fold ``n`` holds out the n-th patient in order of name.

        Raises:
            MssegError: a single patient, no lesions at all (exit 3); no such fold (exit 2).
        """
        patients = _patients(subjects, has_lesions)
        _refuse_without_lesions(patients)
        _need(len(patients), 2, "patients")
        _check_fold(fold, len(patients))
        groups = [[patient] for patient in patients]
        return _from_groups("leave_one_out", groups, fold, self.validation, self.seed, subjects)


class HoldOut:
    """Random held-out part; the fold number selects the draw.

    Args:
        fraction: share of patients held out, at least one.
        validation: share of the training patients.
        seed: of the draw.
    """

    def __init__(self, fraction: float = 0.2, validation: float = 0.1, seed: int = 0) -> None:
        self.fraction, self.validation, self.seed = fraction, validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The draw of this number, stratified like :class:`KFold`.

        Raises:
            MssegError: a single patient or no lesions at all (exit 3); a fraction outside 0 to 1
                (exit 2).
        """
        _check_share("fraction", self.fraction)
        patients = _patients(subjects, has_lesions)
        _refuse_without_lesions(patients)
        _need(len(patients), 2, "patients")
        test, rest = _draw(patients, self.fraction, self.seed, f"hold_out {fold}")
        return _assemble("hold_out", fold, self.seed, subjects, test, rest, _share(self.validation))


class VendorHeldOut:
    """Hold out all scanners of one vendor, as the challenge did with GE.

    Args:
        vendor: as in the facts of the subjects; upper and lower case do not matter.
        validation: share of the training patients.
        seed: of the choice of validation patients.
    """

    def __init__(self, vendor: str = "GE", validation: float = 0.1, seed: int = 0) -> None:
        self.vendor, self.validation, self.seed = vendor, validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The only fold, 0.

        Raises:
            MssegError: the vendor is not there, or is the only one (exit 3); no such fold (exit 2).
        """
        _check_fold(fold, 1)
        patients = _patients(subjects, has_lesions)
        _refuse_without_lesions(patients)
        wanted = self.vendor.casefold()
        test = [patient for patient in patients if (patient.vendor or "").casefold() == wanted]
        rest = [patient for patient in patients if patient not in test]
        if not test or not rest:
            known = sorted({patient.vendor or "unknown" for patient in patients})
            raise MssegError(
                Problem(
                    "split.vendor",
                    "this vendor cannot be held out",
                    field="vendor",
                    found=", ".join(known),
                    expected=f"{self.vendor} and at least one other",
                    remedy="give the vendor of each patient in participants.tsv, "
                    "or split.vendor=NAME",
                )
            )
        return _assemble(
            "vendor_held_out", fold, self.seed, subjects, test, rest, _share(self.validation)
        )


class ChallengeFolds:
    """The published five folds of the 40 training patients of MSSEG-2.

    Args:
        validation: see :data:`Validation`.
        seed: of the choice of validation patients.

    Reference:
        The split of the public code juliaandresen/ANCRNet; each fold has 2-3 lesion-free patients.
    """

    FOLDS = (
        (19, 27, 37, 49, 68, 83, 91, 100),
        (13, 20, 29, 39, 51, 69, 84, 94),
        (15, 21, 30, 43, 52, 77, 88, 95),
        (16, 24, 32, 47, 57, 74, 89, 96),
        (18, 26, 35, 48, 61, 70, 90, 99),
    )

    def __init__(self, validation: Validation = 0.1, seed: int = 0) -> None:
        self.validation, self.seed = validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """One of the five folds; patients that are not there are left out and logged.

        Raises:
            MssegError: a patient that is not one of the 40, or a fold that would be empty (exit
                3); no such fold (exit 2).
        """
        _check_fold(fold, len(self.FOLDS))
        patients = _patients(subjects, has_lesions)
        numbers = {_number(patient.name): patient for patient in patients}
        known = {number for group in self.FOLDS for number in group}
        strange = [patient.name for number, patient in numbers.items() if number not in known]
        if strange:
            raise MssegError(
                Problem(
                    "split.ids",
                    "patients that are not in the published folds",
                    field="id",
                    found=", ".join(strange[:8]),
                    expected="the 40 training patients of MSSEG-2, by number",
                    remedy="use split=kfold for other data, or leave these patients out",
                )
            )
        missing = sorted(known - set(numbers))
        if missing:
            logger.warning(
                "%d patients of the published folds are not there: %s",
                len(missing),
                ", ".join(map(str, missing)),
            )
        groups = [[numbers[n] for n in group if n in numbers] for group in self.FOLDS]
        if not groups[fold]:
            raise MssegError(
                Problem(
                    "split.empty",
                    "this fold holds none of the patients",
                    field="fold",
                    found=str(fold),
                    expected="a fold with patients",
                    remedy="fold=NUMBER of another fold, or split=kfold",
                )
            )
        return _from_groups("challenge", groups, fold, self.validation, self.seed, subjects)


class FromFile:
    """A division read from a file.

    Args:
        path: JSON as written by :func:`write_split`, or ``{"folds": [...], "data_hash": ...}``
            with one such object for each fold. ``val`` may be left out. A file without
            ``data_hash`` is taken with a warning, unless it lies in the data's own folder.
        validation: share of the training patients to take for validation where the file names
            none; drawn by patient, stratified.
        seed: of that draw.
    """

    def __init__(self, path: str | Path, validation: float = 0.0, seed: int = 0) -> None:
        self.path = Path(path)
        self.validation = _share(validation)
        self.seed = seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The division for this data set.

        Raises:
            MssegError: not such a file, made for other data, ids that are not there, or a patient
                in two parts (exit 3); no such fold (exit 2).
        """
        if not self.path.exists():
            raise MssegError(
                Problem(
                    "split.missing",
                    "there is no such split file",
                    file=self.path,
                    field="split.path",
                    remedy="split.path=FILE, with the file that was meant",
                )
            )
        name = shown(self.path)
        content = self._read(name)
        chosen, common = content, content
        if "folds" not in content and fold != content.get("fold"):
            _check_fold(fold, 1)  # one division is not five folds with the same patients
        elif "folds" in content:
            _check_fold(fold, len(content["folds"]))
            chosen = content["folds"][fold]
        parts: dict[str, list[str]] = {part: chosen.get(part, []) for part in PARTS}
        problems = list(_check_parts(parts, subjects, name))
        now = data_hash(subjects)
        then = str(chosen.get("data_hash") or common.get("data_hash") or "")
        if then and then != now:
            problems.append(
                Problem(
                    "split.other_data",
                    "the split was made for other data",
                    file=name,
                    field="data_hash",
                    found=now,
                    expected=then,
                    remedy="restore the data, or split=kfold for a new split",
                )
            )
        if problems:
            raise MssegError(problems)
        if not then and not self._lies_with(subjects):
            logger.warning("%s states no data_hash; only the ids were compared", name)
        if self.validation and not parts["val"]:
            wanted = set(parts["train"])
            patients = _patients([one for one in subjects if one.id in wanted], has_lesions)
            val, train = _draw(patients, self.validation, self.seed, f"validation file {fold}")
            parts |= {"train": list(_pairs(train)), "val": list(_pairs(val))}
        return Split(
            train=tuple(parts["train"]),
            val=tuple(parts["val"]),
            test=tuple(parts["test"]),
            kind="file",
            fold=fold,
            seed=int(chosen.get("seed", 0)),
            data_hash=now,
        )

    def _lies_with(self, subjects: Sequence[LongitudinalSubject]) -> bool:
        """Whether the file lies in the data's own folder, as a simulated cohort's does.

        Such a division is of these pairs whichever reader takes them, with or without some masks;
        so it can state no hash, which is of what a reader takes.
        """
        folder = self.path.resolve().parent
        return all(one.root is not None and one.root.resolve() == folder for one in subjects)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = read_record(resolve_file(self.path))
            folds = content.get("folds", [content])
            for part in PARTS:
                if not all(
                    isinstance(identifier, str)
                    for each in folds
                    for identifier in each.get(part, [])
                ):
                    raise ValueError("ids are strings")
            if not all(each.get("train") or each.get("test") for each in folds):
                raise ValueError("neither train nor test")
        except (ValueError, AttributeError, TypeError) as error:
            raise MssegError(
                Problem(
                    "split.unreadable",
                    "not a split file",
                    file=name,
                    field="train, val, test",
                    found=str(error)[:200] or type(error).__name__,
                    expected="JSON with lists of ids",
                    remedy="split.path=FILE with the split.json of a run, or split=kfold",
                )
            ) from None
        return dict(content)


@dataclasses.dataclass(frozen=True)
class _Patient:
    """A patient with all pairs; ``positive`` is None if unknown."""

    name: str
    pairs: tuple[str, ...]
    positive: bool | None
    vendor: str | None


def _patients(
    subjects: Sequence[LongitudinalSubject], has_lesions: Mapping[str, bool] | None
) -> list[_Patient]:
    """Patients in order of name; one has lesions when any of its pairs has."""
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
            _Patient(
                name,
                tuple(sorted(subject.id for subject in pairs[name])),
                any(known) if known else None,
                vendors[0] if vendors else None,
            )
        )
    return found


def _strata(patients: Sequence[_Patient]) -> list[list[_Patient]]:
    groups: dict[tuple[str, str], list[_Patient]] = {}
    for patient in patients:
        groups.setdefault((str(patient.positive), patient.vendor or ""), []).append(patient)
    return [groups[key] for key in sorted(groups, reverse=True)]  # lesion-bearing first


def _shuffled(patients: Sequence[_Patient], *key: int | str) -> list[_Patient]:
    order = keyed_generator(*key).permutation(len(patients))
    return [patients[index] for index in order]


def _deal(patients: Sequence[_Patient], folds: int, seed: int) -> list[list[_Patient]]:
    groups: list[list[_Patient]] = [[] for _ in range(folds)]
    turn = 0
    for number, stratum in enumerate(_strata(patients)):
        for patient in _shuffled(stratum, seed, "kfold", number):
            groups[turn % folds].append(patient)
            turn += 1  # goes on across strata, so that sizes differ by one at most
    return groups


def _draw(
    patients: Sequence[_Patient], share: float, seed: int, purpose: str
) -> tuple[list[_Patient], list[_Patient]]:
    """Draw about ``share`` of the patients, at least one, stratified; return them and the rest."""
    wanted = min(max(1, round(share * len(patients))), len(patients) - 1)
    ranked: list[tuple[float, int, _Patient]] = []
    for number, stratum in enumerate(_strata(patients)):
        for place, patient in enumerate(_shuffled(stratum, seed, purpose, number)):
            # the middle of each share of its stratum: small draws take from all strata in turn
            ranked.append(((place + 0.5) / len(stratum), number, patient))
    ranked.sort(key=lambda item: item[:2])
    chosen = [patient for _, _, patient in ranked[:wanted]]
    return chosen, [patient for patient in patients if patient not in chosen]


def _from_groups(
    kind: str,
    groups: list[list[_Patient]],
    fold: int,
    validation: Validation,
    seed: int,
    subjects: Sequence[LongitudinalSubject],
) -> Split:
    test = groups[fold]
    if validation == "next_fold":
        following = (fold + 1) % len(groups)
        val = groups[following] if len(groups) > 2 else []
        train = [
            patient
            for number, group in enumerate(groups)
            if number != fold and not (val and number == following)
            for patient in group
        ]
        return _assemble(kind, fold, seed, subjects, test, train, 0.0, val)
    rest = [patient for number, group in enumerate(groups) if number != fold for patient in group]
    rest.sort(key=lambda patient: patient.name)
    return _assemble(kind, fold, seed, subjects, test, rest, _share(validation))


def _assemble(
    kind: str,
    fold: int,
    seed: int,
    subjects: Sequence[LongitudinalSubject],
    test: Sequence[_Patient],
    rest: Sequence[_Patient],
    validation: float,
    val: Sequence[_Patient] = (),
) -> Split:
    train: Sequence[_Patient] = rest
    if validation > 0 and len(rest) > 1:
        val, train = _draw(rest, validation, seed, f"validation {kind} {fold}")
    return Split(
        train=_pairs(train),
        val=_pairs(val),
        test=_pairs(test),
        kind=kind,
        fold=fold,
        seed=seed,
        data_hash=data_hash(subjects),
    )


def _pairs(patients: Sequence[_Patient]) -> tuple[str, ...]:
    return tuple(sorted(pair for patient in patients for pair in patient.pairs))


def _check_parts(
    parts: Mapping[str, Sequence[str]], subjects: Sequence[LongitudinalSubject], name: str
) -> Iterable[Problem]:
    patient_of = {subject.id: subject.patient for subject in subjects}
    listed = [identifier for part in PARTS for identifier in parts[part]]
    strange = [identifier for identifier in listed if identifier not in patient_of]
    if strange:
        yield Problem(
            "split.ids",
            "ids that are not in the data set",
            file=name,
            field="train, val, test",
            found=", ".join(strange[:8]),
            expected="ids of the data set",
            remedy="use the split with the data it was made for",
        )
    sides: dict[str, set[str]] = {}
    for part in PARTS:
        for identifier in parts[part]:
            sides.setdefault(patient_of.get(identifier, identifier), set()).add(part)
    torn = sorted(patient for patient, where in sides.items() if len(where) > 1)
    if torn:
        yield Problem(
            "split.patient_twice",
            "one patient is in two parts",
            file=name,
            field="train, val, test",
            found=", ".join(torn[:8]),
            expected="each patient in one part",
            remedy="move all pairs of a patient together",
        )


def _number(name: str) -> int | None:
    digits = name.removeprefix("sub-")
    return int(digits) if digits.isdecimal() and digits.isascii() else None


def _share(validation: Validation) -> float:
    if isinstance(validation, str):
        raise MssegError(
            Problem(
                "split.validation",
                "this split has no next fold",
                field="validation",
                found=validation,
                expected="a share such as 0.1",
                remedy="split.validation=0.1",
                exit_code=ExitCode.CONFIG,
            )
        )
    if validation != 0:
        _check_share("validation", validation)
    return float(validation)


def _check_share(field: str, share: float) -> None:
    if not 0 < share < 1:
        raise MssegError(
            Problem(
                "split.share",
                "not a share of the patients",
                field=f"split.{field}",
                found=str(share),
                expected="between 0 and 1",
                remedy=f"split.{field}=0.1",
                exit_code=ExitCode.CONFIG,
            )
        )


def _check_fold(fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise MssegError(
            Problem(
                "split.fold",
                "there is no such fold",
                field="fold",
                found=str(fold),
                expected=f"0 to {folds - 1}",
                remedy="fold=0",
                exit_code=ExitCode.CONFIG,
            )
        )


def _need(found: int, needed: int, what: str) -> None:
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


def _refuse_without_lesions(patients: Sequence[_Patient]) -> None:
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
