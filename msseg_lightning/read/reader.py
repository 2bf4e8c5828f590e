"""Protocol and base class of readers of data sets."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import Facts, LongitudinalSubject
from msseg_lightning.read.identity import same_patients
from msseg_lightning.read.participants import read_participants
from msseg_lightning.read.patterns import matching, no_file, pattern_of
from msseg_lightning.read.unused import Unused, add_files, summary

logger = logging.getLogger(__name__)
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@runtime_checkable
class Reader(Protocol):
    """Protocol of readers, which find pairs without opening images."""

    def subjects(self) -> list[LongitudinalSubject]:
        """Every complete pair, by id.

        Raises:
            MssegError: with every problem of the layout.
        """

    def skipped(self) -> list[Problem]:
        """Warnings on what the last call of ``subjects`` did not use."""

    def order(self) -> list[str]:
        """Description of how the last call of ``subjects`` ordered the visits."""


def read_subjects(reader: Reader) -> list[LongitudinalSubject]:
    """Read the pairs of a reader and log a summary of its warnings.

    Raises:
        MssegError: with every problem of the layout.
    """
    found = reader.subjects()
    if text := summary(reader.skipped()):
        logger.warning("%s", text)
    return found


def existing_root(root: str | Path) -> Path:
    """The data root as a path; refused if it does not exist.

    Raises:
        MssegError: it is not a folder.
    """
    path = Path(root)
    if not path.is_dir():
        with contextlib.suppress(RuntimeError):  # there is no user of this name
            path = path.expanduser()
    if not path.is_dir():
        raise MssegError(
            Problem(
                "data.root",
                "the data root is not a folder",
                file=path,  # in full: it was given, and its mistake may lie anywhere in it
                field="read.root",
                found="a file" if path.exists() else "nothing",
                expected="a folder",
                remedy="give the folder of the data set: read.root=FOLDER",
            )
        )
    return path


def check_id(identifier: str, where: str) -> Problem | None:
    """Problem of an id that is unsafe in file names or tables."""
    shown = ascii(identifier)[1:-1][:80]
    escape = identifier.startswith(("/", "\\", "~")) or ".." in identifier or ":" in identifier
    if ID.fullmatch(identifier) and not identifier.startswith("-"):
        return None
    return Problem(
        "id.escape" if escape else "id.form",
        "the id points out of the data set" if escape else "the id has a form that is not allowed",
        file=where,
        field="id",
        found=f"{shown} ({len(identifier)} characters)",
        expected="1 to 64 of A-Z a-z 0-9 _ and -, not starting with -",
        remedy="rename the subject",
        exit_code=ExitCode.SECURITY if escape else ExitCode.DATA,
    )


def check_ids(subjects: Sequence[LongitudinalSubject], where: str) -> Iterator[Problem]:
    """Problems of ids and patients over a whole data set."""
    folded: dict[str, list[str]] = defaultdict(list)
    for subject in subjects:
        for identifier in dict.fromkeys((subject.id, subject.patient)):
            problem = check_id(identifier, where)
            if problem is not None:
                yield problem
        folded[subject.id.casefold()].append(subject.id)
    reported = set()
    for names in folded.values():
        if len(names) > 1:
            reported.add(", ".join(names))
            same = len(set(names)) == 1
            yield Problem(
                "id.twice" if same else "id.case",
                "an id occurs twice" if same else "ids differ only in upper and lower case",
                file=where,
                field="id",
                found=", ".join(names),
                expected="distinct ids",
                remedy="rename one of them",
            )
    for problem in same_patients((subject.patient for subject in subjects), where):
        if problem.found not in reported:
            yield problem


def raise_errors(problems: Sequence[Problem]) -> None:
    """Raise all errors together, if there are any."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise MssegError(errors)


def warnings_of(problems: Sequence[Problem]) -> list[Problem]:
    """The warnings among problems."""
    return [problem for problem in problems if problem.severity == "warning"]


def named_files(
    folder: Path, standard: Mapping[str, str], patterns: Mapping[str, str], problems: list[Problem]
) -> dict[str, Path]:
    """What lies in the folder of a subject: name -> file.

    Args:
        folder: of the subject.
        standard: name -> usual name of the file.
        patterns: name -> pattern of ``read.files``.
        problems: where patterns that fit several files go.
    """
    present = {path.name for path in folder.iterdir()}
    found = {name: folder / file for name, file in standard.items() if file in present}
    for name, pattern in patterns.items():
        if name not in standard:
            continue
        files = matching(folder, pattern, subject=folder.name)
        found.pop(name, None)
        if files:
            found[name] = files[0]
        if len(files) > 1:
            problems.append(
                Problem(
                    "read.pattern_several",
                    "several files fit a pattern",
                    file=folder.name,
                    field=f"read.files.{name}",
                    found=", ".join(str(file.relative_to(folder)) for file in files),
                    expected="one file in each folder",
                    remedy=f"make read.files.{name} fit one of them",
                )
            )
    return found


def setting_of_file(place: str) -> str:
    """The setting by which a file in the folder of a subject is its reference; empty elsewhere."""
    folder, slash, rest = place.partition("/")
    if not slash:
        return ""
    return f"read.files.new_lesions='{pattern_of(rest, subject=folder)}'"


ReadFolder = Callable[[Path, Path, list[Problem]], LongitudinalSubject | None]
"""(folder, root, where problems go) -> what lies there; None where it is left out."""


class FolderReading:
    """Base class of readers with one folder per subject.

    Args:
        place: root; ``participants.tsv`` there gives covariates.
        read: makes a subject of a folder. Warnings it puts among the problems are kept, and what
            they are about counts as named.
        nothing: the problem where no folder has one.
        setting: see ``Unused``.

    Raises:
        MssegError: the place or its table cannot be read at all.
    """

    def __init__(
        self,
        place: Path | str,
        read: ReadFolder,
        nothing: Problem,
        setting: Callable[[str], str] = lambda place: "",
    ) -> None:
        self._root = root = existing_root(Path(place))
        table = read_participants(root / "participants.tsv", root)
        problems: list[Problem] = []
        found: dict[str, LongitudinalSubject] = {}
        folders = (path for path in root.iterdir() if path.is_dir())
        for folder in sorted(path for path in folders if not path.name.startswith(".")):
            subject = read(folder, root, problems)
            if subject is not None:
                found[folder.name] = subject
        self._unused = Unused(setting)
        self._left_out = [root / str(one.file) for one in warnings_of(problems)]
        # a folder that is left out still has its row
        left_out = [path.name for path in self._left_out]
        facts, remarks = table.assign(list(found), self._unused, left_out)
        self._subjects = [
            dataclasses.replace(subject, facts=facts.get(name, Facts()))
            for name, subject in found.items()
        ]
        problems += [*remarks, *check_ids(self._subjects, "folder names")]
        if not found and not any(problem.severity == "error" for problem in problems):
            problems.append(nothing)
        self._problems = problems

    def unmatched(self, patterns: Mapping[str, str], standard: Mapping[str, str]) -> None:
        """Add a problem for every pattern of ``read.files`` that no subject has a file of."""
        read = {name for subject in self._subjects for name in subject.files()}
        self._problems += [
            no_file("read.files", name, pattern)
            for name, pattern in patterns.items()
            if name in standard and name not in read
        ]

    def subjects(self) -> list[LongitudinalSubject]:
        """Every subject, ordered by folder name.

        Raises:
            MssegError: with every problem of every folder.
        """
        raise_errors(self._problems)
        return list(self._subjects)

    def skipped(self) -> list[Problem]:
        """Warnings on subjects left out and on unused files and folders."""
        unused = copy.deepcopy(self._unused)
        used = [file for subject in self._subjects for file in subject.files().values()]
        if used:
            add_files(unused, self._root, used, self._left_out)
        return [*warnings_of(self._problems), *unused.problems()]
