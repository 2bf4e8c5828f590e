"""Hold-out of one scanner vendor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import patients_of, refuse_without_lesions, without
from msseg_lightning.split.split import Split, check_fold
from msseg_lightning.split.validation import split_of_test


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
        """The split of fold 0, the only one.

        Raises:
            MssegError: the vendor is not there, or is the only one (exit 3); no such fold (exit 2).
        """
        check_fold(fold, 1)
        patients = patients_of(subjects, has_lesions)
        refuse_without_lesions(patients)
        wanted = self.vendor.casefold()
        test = [patient for patient in patients if (patient.vendor or "").casefold() == wanted]
        rest = without(patients, test)
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
        return split_of_test(
            "vendor_held_out", fold, self.seed, subjects, test, rest, self.validation
        )
