"""Reader that joins several data sets."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.identity import folded, reduced, shared_scans
from msseg_lightning.read.reader import Reader, check_ids, raise_errors, warnings_of


class Several:
    """Joins the pairs of several readers.

    Ids and patients are preceded by the name of their source (``real-001``), so that patient 001 of
    one data set is not taken for patient 001 of another.

    Args:
        sources: name -> reader; names of letters and digits.
        root: shown in messages and used as the name of the data; no file is looked for there.

    Raises:
        MssegError: no source, or a name that cannot be part of an id (exit 2).
    """

    LAYOUT = """\
each data set in its own layout                  read=several
'+read.sources.real={_target_: msseg_lightning.read.open_ms.OpenMs, root: DATA}'
'+read.sources.own={_target_: msseg_lightning.read.bids.Bids, root: OTHER}'
patients are named after their source: real-patient01, own-sub-01
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
        self._warnings: list[Problem] = []

    def subjects(self) -> list[LongitudinalSubject]:
        """Every pair of every source, in their order.

        Raises:
            MssegError: what the readers refuse, all sources together; ids that are too long,
                one scan under two patients.
        """
        self._warnings = []
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
        problems += shared_scans(found, "several")
        problems += self._alike(found)
        self._warnings = warnings_of(problems)
        raise_errors(problems)
        return found

    def skipped(self) -> list[Problem]:
        """Warnings of the sources on the last call of ``subjects``."""
        return [
            *self._warnings,
            *(problem for reader in self.sources.values() for problem in reader.skipped()),
        ]

    def order(self) -> list[str]:
        """The order of visits of all sources."""
        return [
            f"{name}: {line}" for name, reader in self.sources.items() for line in reader.order()
        ]

    def _alike(self, subjects: Sequence[LongitudinalSubject]) -> Iterator[Problem]:
        """Problems of patients with similar names in two sources, who are probably one person."""
        places: dict[str, dict[str, None]] = defaultdict(dict)
        for subject in subjects:
            name = subject.patient.partition("-")[2]
            if any(letter.isalpha() for letter in folded(name)):
                places[reduced(name)][subject.patient] = None
        alike = [
            tuple(names)
            for names in places.values()
            if len({name.partition("-")[0] for name in names}) > 1
        ]
        if alike:
            yield Problem(
                "patient.similar",
                "patients of two sources have similar names; they are taken for different people",
                file="several",
                field="patient",
                found=f"{len(alike)}, e.g. {', '.join(alike[0])}",
                expected="one source for each patient",
                remedy="leave them out of one source if they are one person; else nothing to do",
                severity="warning",
            )
