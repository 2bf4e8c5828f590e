"""The protocol that every system implements, learned or not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import LongitudinalSubject

Track = Callable[[str, Mapping[str, object]], AbstractContextManager[Sequence[object]]]
"""(name, tags) -> Lightning loggers of a tracked run of its own, which ends with the block."""


@contextlib.contextmanager
def untracked(name: str, tags: Mapping[str, object]) -> Iterator[Sequence[object]]:
    """A ``Track`` that gives no loggers."""
    yield ()


@dataclasses.dataclass(frozen=True)
class FitContext:
    """What a fit needs to know besides its pairs.

    Args:
        held_out: patients from whom nothing may be learned, whatever further data are read.
        loggers: Lightning loggers of this fit.
        track: opens a tracked run for a part of the system, such as a stage or a member.
    """

    held_out: frozenset[str] = frozenset()
    loggers: tuple[object, ...] = ()
    track: Track = untracked


NO_CONTEXT = FitContext()
"""Context of a fit in which nothing is held out and nothing is tracked."""


@runtime_checkable
class Method(Protocol):
    """A system: it is fitted on labelled pairs, then predicts pairs.

    ``fit`` continues from whatever an interrupted ``fit`` left in ``folder``. ``save`` and ``load``
    never pickle.
    """

    def fit(
        self,
        train: Sequence[LongitudinalSubject],
        val: Sequence[LongitudinalSubject],
        folder: Path,
        context: FitContext = NO_CONTEXT,
    ) -> None:
        """Fit on labelled pairs; state for resuming is stored in ``folder``."""

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict one pair on its native grid."""

    def save(self, folder: Path) -> None:
        """Write everything that ``load`` needs."""

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote; the object was built from the same configuration."""
