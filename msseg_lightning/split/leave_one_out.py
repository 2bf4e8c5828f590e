"""Leave-one-out cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import need, patients_of, refuse_without_lesions
from msseg_lightning.split.split import Split, check_fold
from msseg_lightning.split.validation import Validation, split_of_fold


class LeaveOneOut:
    """Leave-one-out cross-validation over patients.

    Args:
        validation: see :data:`msseg_lightning.split.validation.Validation`.
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
        """The split of fold ``n``, which holds out the n-th patient in order of name.

        Raises:
            MssegError: a single patient, no lesions at all (exit 3); no such fold (exit 2).
        """
        patients = patients_of(subjects, has_lesions)
        refuse_without_lesions(patients)
        need(len(patients), 2, "patients")
        check_fold(fold, len(patients))
        folds = [[patient] for patient in patients]
        return split_of_fold("leave_one_out", folds, fold, self.validation, self.seed, subjects)
