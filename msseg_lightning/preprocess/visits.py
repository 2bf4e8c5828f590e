"""Prepared scans of single visits, as a further source of training data."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.preprocess.step import Step


class LoadingReader(Protocol):
    """Finds scans and reads them; ``read.single_timepoint.SingleTimepoint`` is one."""

    def subjects(self) -> Sequence[LongitudinalSubject]:
        """All scans."""

    def load(self, subject: LongitudinalSubject) -> LoadedSubject:
        """Read and check one scan."""


class PreparedVisits:
    """Prepared scans of single visits, for loaders that use them besides the pairs of a run.

    Args:
        reader: of the scans. One without scans makes this an empty source.
        steps: the chain that prepares the pairs; it must not learn from data.
        folder: the cache; the pairs' own may be shared.
        workers: processes that prepare.
    """

    def __init__(
        self,
        reader: LoadingReader,
        steps: Mapping[str, Step | None],
        folder: str | Path,
        workers: int = 1,
    ) -> None:
        self.reader = reader
        chain = Preprocess([step for step in steps.values() if step])
        self.cache = PreparedCache(Path(folder), chain, reader.load, workers)
        self.left_out: frozenset[str] = frozenset()

    def without(self, patients: Collection[str]) -> Self:
        """The same source without the scans of these patients."""
        other = copy.copy(self)
        other.left_out = self.left_out | frozenset(patients)
        return other

    def patients(self) -> set[str]:
        """Patients of all scans, including those left out."""
        return {subject.patient for subject in self.reader.subjects()}

    def subjects(self) -> list[PreparedSubject]:
        """All scans except those left out; missing ones are prepared now.

        Raises:
            MssegError: all problems of all scans; every scan is left out.
        """
        found = self.reader.subjects()
        kept = [subject for subject in found if subject.patient not in self.left_out]
        if found and not kept:
            raise MssegError(
                Problem(
                    "data.no_visits",
                    "every scan is of a patient whom the run validates or tests with",
                    field="visits.reader",
                    found=f"{len(found)} scans",
                    expected="scans of other patients",
                    remedy="give other scans, or none",
                )
            )
        return self.cache.prepare(kept) if kept else []
