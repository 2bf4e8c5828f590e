"""SHA-256 of input files, computed again only if a file has changed.

A file stays the same as long as its place on the disk, its size and both its times do. A file that
was changed a moment ago is computed anew each time: it could change again within the same tick of
the file system's clock.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

from msseg_lightning.core.problem import Problem

SETTLED_S = 2.0
"""A file that was changed within so many seconds is not remembered; the coarsest clock (FAT)."""


class FileState(NamedTuple):
    """Metadata of a file that change when it is written to or replaced."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: Path | BinaryIO) -> FileState:
        """The state of a path or of an open file."""
        found = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


_known: dict[FileState, str] = {}


def input_hash(path: Path) -> str:
    """Hex digest of a file's bytes, as ``core.files.sha256_file``."""
    known = _known.get(FileState.of(path))
    if known is not None:
        return known
    began_ns = time.time_ns()
    with path.open("rb") as stream:
        state = FileState.of(stream)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _remember(state, FileState.of(stream), digest, began_ns)
    return digest


class Input:
    """The bytes of a file with their hash.

    Args:
        path: a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began_ns = time.time_ns()
        with path.open("rb") as stream:
            self._before = FileState.of(stream)
            self.content = stream.read()
            self._after = FileState.of(stream)

    def sha256(self) -> str:
        """Hex digest of the bytes; that of the file if it is known and the file has not changed."""
        known = _known.get(self._before) if self._before == self._after else None
        if known is None:
            known = self._digest()
            _remember(self._before, self._after, known, self._began_ns)
        return known

    def _digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def changed_input(pair: str, name: str, path: Path) -> Problem:
    """A refusal of a file that was written while a command used it (exit 3).

    Args:
        pair: whose file.
        name: which one, e.g. ``followup_flair``.
        path: the file.
    """
    return Problem(
        "data.changed",
        f"{pair}: the file was changed or replaced while this command read it",
        file=Path(*path.parts[-2:]),
        field=name,
        expected="a file that stays as it is",
        remedy="wait until nothing writes there any more, then give the same command again",
    )


def _remember(before: FileState, after: FileState, digest: str, began_ns: int) -> None:
    age_ns = began_ns - max(before.modified_ns, before.changed_ns)
    if before == after and age_ns > SETTLED_S * 1e9:
        _known[before] = digest
