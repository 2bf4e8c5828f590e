"""Extraction of archives of others: plain files only, of bounded number and size."""

from __future__ import annotations

import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.temporary import temporary_folder

MAX_FILES = 100_000
MAX_BYTES = 50_000_000_000
MAX_RATIO = 200
"""Largest size unpacked relative to the archive; masks of zeros shrink to a hundredth."""
BLOCK = 1 << 20
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")

Member = tuple[str, int, str, Any]
"""Name, stated size, why it may not be written (empty if it may), and the entry itself."""


def is_archive(path: Path) -> bool:
    """Whether a file has the name of an archive that can be extracted."""
    return path.name.lower().endswith(ENDINGS)


def extract(archive: Path, folder: Path) -> int:
    """Extract an archive into a new folder, which appears when it is complete.

    The list of members is checked before anything is written, and bytes are counted again while
    they are. Archives inside the archive are left as they are.

    Args:
        archive: zip or tar.
        folder: must not exist.

    Returns:
        The number of files.

    Raises:
        MssegError: a member that leads out of the folder, is a link or device, or is too large; or
            too many of them (exit 6); a damaged archive (exit 3); the folder exists (exit 2).
    """
    if folder.exists():
        raise _refusal(
            "archive.folder",
            "the folder exists already",
            folder,
            remedy="move it away, or name another folder: --folder FOLDER",
            exit_code=ExitCode.CONFIG,
        )
    try:
        with (
            zipfile.ZipFile(archive)
            if archive.name.lower().endswith(".zip")
            else tarfile.open(archive) as opened,
            temporary_folder(folder) as temporary,
        ):
            limit = min(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
            members = _checked(archive, _members(opened), limit)
            _write(archive, opened, members, temporary, limit)
            temporary.rename(folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError) as error:
        raise _refusal(
            "archive.damaged",
            "the archive is damaged or of an unknown kind",
            archive,
            found=" ".join(str(error).split())[:200],
            expected="a zip or tar file",
            remedy="download it again",
        ) from error
    return len(members)


def _members(opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG) or (info.is_dir() and kind == stat.S_IFDIR)
            why = "" if plain else "a link or device"
            why = "an encrypted file" if info.flag_bits & 1 else why
            if not (info.is_dir() and not why):
                yield info.orig_filename, info.file_size, why, info
        return
    for entry in opened:
        if not entry.isdir():
            why = "" if entry.isreg() and not entry.issparse() else "a link or device"
            yield entry.name, entry.size, why, entry


def _checked(archive: Path, members: Iterator[Member], limit: int) -> list[Member]:
    """The members, if all of them may be written."""
    kept: list[Member] = []
    problems = []
    seen: set[str] = set()
    total = 0
    for name, size, why, entry in members:
        key = unicodedata.normalize("NFC", name).casefold()
        why = why or ("" if _is_inside(name) else "a path that leads out of the folder")
        why = why or ("a second file of this name" if key in seen else "")
        seen.add(key)
        total += size
        if len(kept) >= MAX_FILES or total > limit:
            why = f"more than {MAX_FILES} files or {limit} bytes"
        if why:
            problems.append(_entry(archive, name, why))
        kept.append((name, size, why, entry))
        if len(problems) >= 20 or total > limit:
            break
    if problems:
        raise MssegError(problems)
    return kept


def _write(archive: Path, opened: Any, members: list[Member], folder: Path, limit: int) -> None:
    written = 0
    for name, size, _, entry in members:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source: IO[bytes] = (
            opened.open(entry) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(entry)
        )
        with source, target.open("xb") as stream:
            before = written
            while block := source.read(BLOCK):
                written += len(block)
                if written > limit or written - before > size:
                    raise MssegError(_entry(archive, name, "more bytes than its list states"))
                stream.write(block)


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return not (
        re.search(r"[\x00-\x1f\\]|^[A-Za-z]:|^[/~]", name)
        or any(part in ("", ".", "..") for part in parts)
        or len(name) > 4096
        or any(len(part.encode(errors="replace")) > 255 for part in parts)
    )


def _entry(archive: Path, name: str, why: str) -> Problem:
    return _problem(
        "archive.member",
        "the archive holds what may not be extracted; nothing was written",
        archive,
        field=ascii(name)[1:-1][:200],
        found=why,
        expected="plain files below one folder",
        remedy="do not use this archive; get it from a source that you trust",
        exit_code=ExitCode.SECURITY,
    )


def _problem(code: str, message: str, file: Path, **details: Any) -> Problem:
    return Problem(code, message, file=file, **details)


def _refusal(code: str, message: str, file: Path, **details: Any) -> MssegError:
    return MssegError(_problem(code, message, file, **details))
