"""Choice of validation patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import Patient, draw, pair_ids
from msseg_lightning.split.split import Split, data_hash

Validation = float | Literal["next_fold"]
"""Validation patients: a share of the training patients (at least one), or the whole next fold."""


def split_of_fold(
    kind: str,
    folds: Sequence[Sequence[Patient]],
    fold: int,
    validation: Validation,
    seed: int,
    subjects: Sequence[LongitudinalSubject],
) -> Split:
    """The split that holds out one of several folds.

    Args:
        kind: see ``Split``.
        folds: all patients, by fold.
        fold: the one held out.
        validation: see :data:`Validation`.
        seed: of the choice of validation patients.
        subjects: all pairs.

    Raises:
        MssegError: not a share (exit 2).
    """
    test = folds[fold]
    if validation == "next_fold":
        following = (fold + 1) % len(folds)
        val = folds[following] if len(folds) > 2 else []
        out = {fold, following} if val else {fold}
        train = [one for number, each in enumerate(folds) if number not in out for one in each]
        return _split(kind, fold, seed, subjects, train, val, test)
    rest = [patient for number, each in enumerate(folds) if number != fold for patient in each]
    rest.sort(key=lambda patient: patient.name)
    return split_of_test(kind, fold, seed, subjects, test, rest, validation)


def split_of_test(
    kind: str,
    fold: int,
    seed: int,
    subjects: Sequence[LongitudinalSubject],
    test: Sequence[Patient],
    rest: Sequence[Patient],
    validation: Validation,
) -> Split:
    """The split that holds out some patients; validation patients are drawn from the rest.

    Raises:
        MssegError: not a share (exit 2).
    """
    share = share_of(validation)
    train: Sequence[Patient] = rest
    val: Sequence[Patient] = ()
    if share > 0 and len(rest) > 1:
        val, train = draw(rest, share, seed, f"validation {kind} {fold}")
    return _split(kind, fold, seed, subjects, train, val, test)


def _split(
    kind: str,
    fold: int,
    seed: int,
    subjects: Sequence[LongitudinalSubject],
    train: Sequence[Patient],
    val: Sequence[Patient],
    test: Sequence[Patient],
) -> Split:
    return Split(
        train=pair_ids(train),
        val=pair_ids(val),
        test=pair_ids(test),
        kind=kind,
        fold=fold,
        seed=seed,
        data_hash=data_hash(subjects),
    )


def share_of(validation: Validation) -> float:
    """The share of the training patients that validates; 0 for none.

    Raises:
        MssegError: not a share (exit 2).
    """
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
        check_share("validation", validation)
    return float(validation)


def check_share(field: str, share: float) -> None:
    """Check that a setting is a share of the patients.

    Raises:
        MssegError: it is not above 0 and below 1 (exit 2).
    """
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
