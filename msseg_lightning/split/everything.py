"""All pairs for training: no part is held out for a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import patients_of, refuse_without_lesions
from msseg_lightning.split.split import Split, check_fold
from msseg_lightning.split.validation import split_of_test


class Everything:
    """Trains on every pair, for a system that is tested on other data.

    Args:
        validation: share of the patients that choose the weights; 0 keeps the last weights.
        seed: of the draw.
    """

    def __init__(self, validation: float = 0.1, seed: int = 0) -> None:
        self.validation, self.seed = validation, seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The one split; ``test`` is empty.

        Raises:
            MssegError: no lesions at all (exit 3); another fold than 0, or a share outside 0 to 1
                (exit 2).
        """
        check_fold(fold, 1)
        patients = sorted(patients_of(subjects, has_lesions), key=lambda one: one.name)
        refuse_without_lesions(patients)
        return split_of_test("everything", fold, self.seed, subjects, [], patients, self.validation)
