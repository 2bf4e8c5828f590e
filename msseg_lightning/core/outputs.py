"""Protection of files against being overwritten by the output of a command."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

IsOwnFile = Callable[[Path], bool]
"""Whether an existing file was written by this package."""


def refuse_overwrites(
    outputs: Sequence[tuple[Path, IsOwnFile]], inputs: Iterable[Path] = (), field: str = "output"
) -> None:
    """Refuse outputs that equal an input, equal another output or overwrite a foreign file.

    Files are compared by what they are: through links, on whichever path, and without regard to
    upper and lower case, as some file systems have it.

    Raises:
        MssegError: with every such output (exit 2).
    """
    seen = {key: "an input" for file in inputs for key in _identity(file)}
    problems = []
    for output, is_own in outputs:
        keys = _identity(output)
        met = next((seen[key] for key in keys if key in seen), "")
        if not met and os.path.lexists(output) and not (output.is_file() and is_own(output)):
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


def refuse_inside_data(root: str | Path | None, places: Mapping[str, str | Path]) -> None:
    """Refuse folders of outputs that are the data root or lie in it, where readers would find them.

    ``derivatives`` of the root is allowed: BIDS keeps results there, and no reader looks there for
    patients.

    Args:
        root: of the data; nothing is refused without one.
        places: setting or option -> its folder.

    Raises:
        MssegError: with every such folder (exit 2).
    """
    if root is None:
        return
    data = Path(os.path.realpath(Path(root).expanduser()))
    if data == data.parent:  # the root of a table with absolute paths
        return
    problems = []
    for field, place in places.items():
        folder = Path(os.path.realpath(Path(place).expanduser()))
        if not folder.is_relative_to(data) or folder.is_relative_to(data / "derivatives"):
            continue
        problems.append(
            Problem(
                "output.inside_data",
                "results would be written into the folder of the data",
                file=place,
                field=field,
                found=f"below {data.name}" if folder != data else "the data root itself",
                expected="a folder outside of the data root, or in its folder derivatives",
                remedy=f"{field}{' ' if field.startswith('-') else '='}FOLDER with another folder",
                exit_code=ExitCode.CONFIG,
            )
        )
    if problems:
        raise MssegError(problems)


def is_json_with(*keys: str) -> IsOwnFile:
    """A check for JSON files: an object, or a list of objects, with these keys."""

    def is_own(path: Path) -> bool:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        items = content if isinstance(content, list) else [content]
        return all(isinstance(item, dict) and set(keys) <= item.keys() for item in items)

    return is_own


def is_text_with(*parts: str) -> IsOwnFile:
    """A check for text files whose first thousand characters contain these parts."""

    def is_own(path: Path) -> bool:
        try:
            with path.open(encoding="utf-8") as stream:
                head = stream.read(1000)
        except (OSError, ValueError):
            return False
        return all(part in head for part in parts)

    return is_own


def _identity(path: Path) -> set[str | tuple[int, int]]:
    """Path without links or case, and inode; two files are the same if they share one."""
    keys: set[str | tuple[int, int]] = {
        unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
    }
    if path.exists():
        status = path.stat()
        keys.add((status.st_dev, status.st_ino))
    return keys
