"""The published five folds of the challenge's training patients."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import Patient, patients_of
from msseg_lightning.split.split import Split, check_fold
from msseg_lightning.split.validation import Validation, split_of_fold

logger = logging.getLogger(__name__)


class ChallengeFolds:
    """The published five folds of the 40 training patients of MSSEG-2.

    Args:
        validation: see :data:`msseg_lightning.split.validation.Validation`.
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
        """The division of one of the five folds; missing patients are logged.

        Raises:
            MssegError: a patient that is not one of the 40, or a fold that would be empty (exit
                3); no such fold (exit 2).
        """
        check_fold(fold, len(self.FOLDS))
        patients = patients_of(subjects, has_lesions)
        numbers: dict[int | None, list[Patient]] = {}
        for patient in patients:
            numbers.setdefault(_number(patient.name), []).append(patient)
        known = {number for group in self.FOLDS for number in group}
        strange = [patient.name for patient in patients if _number(patient.name) not in known]
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
        folds = [[one for n in group for one in numbers.get(n, ())] for group in self.FOLDS]
        if not folds[fold]:
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
        return split_of_fold("challenge", folds, fold, self.validation, self.seed, subjects)


def _number(name: str) -> int | None:
    digits = name.removeprefix("sub-")
    return int(digits) if digits.isdecimal() and digits.isascii() else None
