"""Files that a command may write: new ones, and those that this package wrote before."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Ours = Callable[[Path], bool]
"""Says of a file that exists whether this package wrote it."""


def refuse_overwrites(
    outputs: Sequence[tuple[Path, Ours]], inputs: Iterable[Path] = (), field: str = "output"
) -> None:
    """Refuse outputs that are an input, one file with another output, or a file of somebody else.

    Files are compared by what they are: through links, on whichever path, and without regard to
    upper and lower case, as some file systems have it.

    Raises:
        MssegError: with every such output (exit 2).
    """
    seen = {key: "an input" for file in inputs for key in _identity(file)}
    problems = []
    for output, ours in outputs:
        keys = _identity(output)
        met = next((seen[key] for key in keys if key in seen), "")
        if not met and os.path.lexists(output) and not (output.is_file() and ours(output)):
            met = "a file that this package did not write" if not output.is_dir() else "a folder"
        if met:
            problems.append(
                Problem(
                    "output.overwrites",
                    f"the output would overwrite {met}",
                    file=output,
                    field=field,
                    expected="a new file, or one that an earlier call wrote here",
                    remedy="choose another file name or folder, or move that file away (those "
                    "that an earlier version wrote are not known either)",
                    exit_code=ExitCode.CONFIG,
                )
            )
        seen |= dict.fromkeys(keys, "another output")
    if problems:
        raise MssegError(problems)


def json_with(*keys: str) -> Ours:
    """Recognises a JSON object, or a list of them, that has these keys."""

    def ours(path: Path) -> bool:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        items = content if isinstance(content, list) else [content]
        return all(isinstance(item, dict) and set(keys) <= item.keys() for item in items)

    return ours


def text_with(*parts: str) -> Ours:
    """Recognises a text of which the first thousand characters hold these parts."""

    def ours(path: Path) -> bool:
        try:
            with path.open(encoding="utf-8") as stream:
                head = stream.read(1000)
        except (OSError, ValueError):
            return False
        return all(part in head for part in parts)

    return ours


def _identity(path: Path) -> set[str | tuple[int, int]]:
    """Equal parts mean one file: the path without links or case, and the file's own number."""
    keys: set[str | tuple[int, int]] = {
        unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
    }
    if path.exists():
        status = path.stat()
        keys.add((status.st_dev, status.st_ino))
    return keys
