"""A data set made of several: private pairs beside the challenge's, simulated beside real ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.reader import Reader, check_ids


class Several:
    """The pairs of several readers.

    Ids and patients are preceded by the name of their source (``real-001``), so that patient 001 of
    one data set is not taken for patient 001 of another.

    Args:
        sources: name -> reader; names of letters and digits.
        root: shown in messages and used as the name of the data; no file is looked for there.

    Raises:
        MssegError: no source, or a name that cannot be part of an id (exit 2).
    """

    def __init__(self, sources: Mapping[str, Reader], root: str = "several") -> None:
        wrong = [name for name in sources if not name.isalnum() or not name.isascii()]
        if wrong or not sources:
            raise MssegError(
                Problem(
                    "config.value",
                    "the sources of this data set cannot be used",
                    field="read.sources",
                    found=", ".join(wrong) or "none",
                    expected="one reader or more under names of letters and digits",
                    remedy="give at least one: '+read.sources.NAME={_target_: "
                    "msseg_lightning.read.msseg2.Msseg2, root: FOLDER}'",
                    exit_code=ExitCode.CONFIG,
                )
            )
        self.sources, self.root = dict(sources), root

    def subjects(self) -> list[LongitudinalSubject]:
        """Every pair of every source, in their order.

        Raises:
            MssegError: what the readers refuse, all sources together; ids that are too long.
        """
        found: list[LongitudinalSubject] = []
        problems: list[Problem] = []
        for name, reader in self.sources.items():
            try:
                found += [
                    dataclasses.replace(
                        pair, id=f"{name}-{pair.id}", patient=f"{name}-{pair.patient}"
                    )
                    for pair in reader.subjects()
                ]
            except MssegError as error:
                problems += error.problems
        problems += check_ids(found, "ids of the sources")
        if problems:
            raise MssegError(problems)
        return found

    def skipped(self) -> list[Problem]:
        """What the sources left out by the last call of ``subjects``."""
        return [problem for reader in self.sources.values() for problem in reader.skipped()]
