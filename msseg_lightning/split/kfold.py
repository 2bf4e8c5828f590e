"""K-fold cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import deal, need, patients_of, refuse_without_lesions
from msseg_lightning.split.split import Split, check_fold
from msseg_lightning.split.validation import Validation, split_of_fold


class KFold:
    """K-fold cross-validation, stratified by whether patients have new lesions.

    Patients are shuffled inside each group (new lesions yes or no, and vendor where known) and
    dealt out in turn, so that every group is spread evenly.

    Args:
        folds: how many, at least 2.
        validation: see :data:`msseg_lightning.split.validation.Validation`.
        seed: of the shuffling; kept apart from the seed of training, so that repetitions see the
            same folds.
    """

    def __init__(self, folds: int = 5, validation: Validation = 0.1, seed: int = 0) -> None:
        if folds < 2:
            raise ValueError(f"folds: 2 or more, not {folds}")
        self.folds, self.validation, self.seed = folds, validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The split of one fold.

        Raises:
            MssegError: fewer patients than folds, a fold that would have no patient with new
                lesions, no lesions at all (exit 3); no such fold (exit 2).
        """
        check_fold(fold, self.folds)
        patients = patients_of(subjects, has_lesions)
        refuse_without_lesions(patients)
        need(len(patients), self.folds, "patients")
        positive = sum(patient.positive is True for patient in patients)
        if positive:
            need(positive, self.folds, "patients with new lesions")
        folds = deal(patients, self.folds, self.seed)
        return split_of_fold("kfold", folds, fold, self.validation, self.seed, subjects)
