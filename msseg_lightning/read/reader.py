"""What every reader of a data set gives: pairs, and notes about what it left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import Facts, LongitudinalSubject
from msseg_lightning.read.participants import read_participants

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@runtime_checkable
class Reader(Protocol):
    """Finds the pairs of a data set; opens no image."""

    def subjects(self) -> list[LongitudinalSubject]:
        """Every complete pair, by id.

        Raises:
            MssegError: with every problem of the layout.
        """

    def skipped(self) -> list[Problem]:
        """What was left out on purpose, as warnings."""


def existing_root(root: str | Path) -> Path:
    """The data root as a path.

    Raises:
        MssegError: it is not a folder.
    """
    path = Path(root).expanduser()
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
    """A problem when an id could name a file elsewhere, collide or break a table."""
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
    for names in folded.values():
        if len(names) > 1:
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


def raise_errors(problems: Sequence[Problem]) -> None:
    """Raise all errors together; warnings pass."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise MssegError(errors)


ReadFolder = Callable[[Path, Path, Facts, list[Problem]], LongitudinalSubject | None]
"""(folder, root, covariates, where problems go) -> what lies there; None where it is left out."""


def one_per_folder(
    place: Path | str, read: ReadFolder, nothing: Problem
) -> list[LongitudinalSubject]:
    """One subject per folder of a data set, ordered by folder name.

    Args:
        place: root; ``participants.tsv`` there gives covariates.
        read: makes a subject of a folder.
        nothing: the problem where no folder has one.

    Raises:
        MssegError: with every problem of every folder.
    """
    root = existing_root(Path(place))
    facts = read_participants(root / "participants.tsv", root)
    problems: list[Problem] = []
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        subject = read(folder, root, facts.get(folder.name, Facts()), problems)
        if subject is not None:
            found.append(subject)
    problems += check_ids(found, "folder names")
    if not found and not problems:
        problems.append(nothing)
    raise_errors(problems)
    return found
