"""Random hold-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import draw, need, patients_of, refuse_without_lesions
from msseg_lightning.split.split import Split
from msseg_lightning.split.validation import check_share, split_of_test


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
        """The split of one draw, stratified like ``KFold``.

        Raises:
            MssegError: a single patient or no lesions at all (exit 3); a fraction outside 0 to 1
                (exit 2).
        """
        check_share("fraction", self.fraction)
        patients = patients_of(subjects, has_lesions)
        refuse_without_lesions(patients)
        need(len(patients), 2, "patients")
        test, rest = draw(patients, self.fraction, self.seed, f"hold_out {fold}")
        return split_of_test("hold_out", fold, self.seed, subjects, test, rest, self.validation)
