"""Patterns of file names, by which settings say how the files of a data set are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from msseg_lightning.core.problem import ExitCode, MssegError, Problem


def check_patterns(
    patterns: Mapping[str, object] | None, known: tuple[str, ...], names: tuple[str, ...], key: str
) -> dict[str, str]:
    """The patterns that are given, by what they name.

    Args:
        patterns: what is named -> pattern; None for the usual name.
        known: what can be named.
        names: placeholders that a pattern may hold, as ``{subject}``.
        key: the setting.

    Raises:
        MssegError: one problem per pattern that cannot be used (exit 2).
    """
    problems, found = [], {}
    for name, value in (patterns or {}).items():
        if value is None:
            continue
        pattern = str(value)
        wrong = name not in known
        place = PurePosixPath(pattern)
        holders = set(re.findall(r"\{(.*?)\}", pattern))
        if wrong or not pattern or place.is_absolute() or ".." in place.parts or holders - {*names}:
            problems.append(
                Problem(
                    "read.pattern",
                    "this is no pattern of files",
                    field=f"{key}.{name}",
                    found=pattern,
                    expected=f"{key} of {', '.join(known)}"
                    if wrong
                    else "a path below the folder with "
                    + " ".join(f"{{{name}}}" for name in names)
                    + " and *",
                    remedy=f"correct it, or leave {key}.{name} out",
                    exit_code=ExitCode.CONFIG,
                )
            )
        found[name] = pattern
    if problems:
        raise MssegError(problems)
    return found


def matching(folder: Path, pattern: str, **names: str) -> list[Path]:
    """Files below a folder that fit a pattern, sorted.

    Args:
        folder: where the pattern starts.
        pattern: a path with ``*`` and ``?`` for any text, and placeholders.
        names: values of the placeholders.
    """
    for name, value in names.items():
        pattern = pattern.replace(f"{{{name}}}", re.sub(r"([*?\[])", r"[\1]", value))
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def pattern_of(place: str, **names: str) -> str:
    """The pattern of a file: its path with placeholders where the names occur as whole words."""
    for name, value in names.items():
        if value:
            place = re.sub(
                rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", f"{{{name}}}", place
            )
    return place


def no_file(key: str, name: str, pattern: str) -> Problem:
    """The refusal of a pattern that fits no file of any pair."""
    return Problem(
        "read.pattern_unused",
        "this pattern fits no file of any pair",
        field=f"{key}.{name}",
        found=pattern,
        expected="a file of at least one pair",
        remedy=f"correct it, or leave {key}.{name} out; `msseg check` names the files that were "
        "not used",
        exit_code=ExitCode.CONFIG,
    )
