"""Scans of one visit, prepared as the pairs of a run are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.preprocess.step import Step


class LoadingReader(Protocol):
    """Finds scans and reads them; ``read.single_timepoint.SingleTimepoint`` is one."""

    def subjects(self) -> Sequence[LongitudinalSubject]:
        """All scans."""

    def load(self, subject: LongitudinalSubject) -> LoadedSubject:
        """One of them, through the gate."""


class PreparedVisits:
    """A second source of scans beside the pairs of a run, for loaders that take one.

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

    def subjects(self) -> list[PreparedSubject]:
        """Every scan, prepared now where the cache has it not.

        Raises:
            MssegError: all problems of all scans.
        """
        found = self.reader.subjects()
        return self.cache.prepare(found) if found else []
