"""The one protocol every system follows, learned or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import LongitudinalSubject


@runtime_checkable
class Method(Protocol):
    """A system: something is fitted (or not), then pairs are predicted.

    ``fit`` continues from whatever an interrupted ``fit`` left in ``folder``. ``save`` and ``load``
    never pickle.
    """

    def fit(
        self, train: Sequence[LongitudinalSubject], val: Sequence[LongitudinalSubject], folder: Path
    ) -> None:
        """Fit on labelled pairs; state for resuming lives in ``folder``."""

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict one pair on its native grid."""

    def save(self, folder: Path) -> None:
        """Write all that ``load`` needs."""

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote; the object was built from the same configuration."""
