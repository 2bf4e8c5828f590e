"""Atomic writing of files, and checksums for files that are read again.

Everything that the program wrote and reads again to decide something carries its SHA-256: JSON
objects under ``checksum``, settings (YAML) in their first line, checkpoints in a last one. What
reads it compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.temporary import temporary_path


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place when the block succeeds.

    The temporary file lies in the same folder (a rename across file systems is a copy), keeps the
    suffixes of the target (writers choose their format by them) and is flushed before the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.touch(exist_ok=False)  # others may read what the umask lets them
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - Path.replace is the same call
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; keys stay in order, NaN is refused."""
    text = json.dumps(content, indent=2, allow_nan=False, default=str) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


CHECKSUM = "checksum"
"""Key of a record whose value is the SHA-256 of the other keys."""

_LINE = re.compile(rb"\n# checksum: ([0-9a-f]{64})\n\Z")
_HEAD = re.compile(rb"\A# checksum: ([0-9a-f]{64})\n")
_LINE_BYTES = len("\n# checksum: \n") + 64


class DamagedFileError(ValueError):
    """A file of this package was changed or damaged; the message says what was found."""


Fields = Mapping[str, type | tuple[type, ...]]
"""Name -> type or types of its value; a name that ends in ``?`` may be absent."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with the checksum of its content; read it with ``read_record``."""
    plain = json.loads(json.dumps(content, allow_nan=False, default=str))
    plain.pop(CHECKSUM, None)  # of the file it was read from
    write_json(path, {**plain, CHECKSUM: _digest(plain)})


def read_record(path: Path, fields: Fields | None = None, sealed: bool = False) -> dict[str, Any]:
    """Read the JSON object of ``write_record``, without its checksum.

    A file without a checksum is taken as it is unless ``sealed``: it was written by an earlier
    version or by hand.

    Args:
        path: the file.
        fields: what the object must hold.
        sealed: refuse a file without a checksum, because it can be made again.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is no regular file, no JSON object, its checksum differs, or a field is
            missing or of another type.
    """
    try:
        content = json.loads(read_regular(path))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"no JSON: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{type(content).__name__}, expected an object")
    if not content:
        raise DamagedFileError("nothing in it")
    stated = content.pop(CHECKSUM, None)
    if stated is None and sealed:
        raise DamagedFileError("no checksum")
    if stated is not None and stated != (found := _digest(content)):
        raise DamagedFileError(f"checksum {found[:12]}, written {str(stated)[:12]}")
    check_fields(content, fields or {})
    return content


def require_record(path: Path, remedy: str, fields: Fields | None = None) -> dict[str, Any]:
    """Read a record that nothing can replace; a damaged one is refused.

    Args:
        path: the file.
        remedy: what the user can do.
        fields: what the object must hold.

    Raises:
        MssegError: the file is missing or damaged (exit 4).
    """
    try:
        return read_record(path, fields)
    except (OSError, DamagedFileError) as error:
        raise damaged_file(path, error, remedy) from error


def damaged_file(path: Path, error: Exception, remedy: str) -> MssegError:
    """The error for a damaged file of this package (exit 4).

    Args:
        path: the file.
        error: why it cannot be read.
        remedy: what the user can do.
    """
    missing = isinstance(error, FileNotFoundError)
    found = getattr(error, "strerror", None) or str(error)
    return MssegError(
        Problem(
            "file.missing" if missing else "file.damaged",
            "this file is missing" if missing else "this file was changed or damaged",
            file=path,
            found=found.splitlines()[0][:200] if found else type(error).__name__,
            expected="the file as it was written",
            remedy=remedy,
            exit_code=ExitCode.MODEL,
        )
    )


def check_fields(content: Mapping[str, Any], fields: Fields) -> None:
    """Check the types of named values.

    Raises:
        DamagedFileError: a value is missing or of another type.
    """
    for name, kind in fields.items():
        key = name.removesuffix("?")
        if key not in content:
            if key == name:
                raise DamagedFileError(f"nothing under {key}")
        elif not isinstance(content[key], kind):
            raise DamagedFileError(f"{key} is a {type(content[key]).__name__}")


def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Write YAML atomically, in the order given; the first line is the checksum of the others."""
    text = yaml.dump(dict(content), Dumper=_NoAliasDumper, sort_keys=False).encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(f"# checksum: {hashlib.sha256(text).hexdigest()}\n".encode() + text)


def read_settings(path: Path, parse: Callable[[str], Any]) -> tuple[dict[str, Any], str | None]:
    """Read the mapping of ``write_settings`` and verify its checksum.

    Args:
        path: the file.
        parse: text -> content; ``ValueError`` or ``yaml.YAMLError`` where it is no YAML.

    Returns:
        The mapping; None, or in words how its checksum differs. A file without a checksum was
        written by an earlier version or by hand.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is no regular file, or no YAML mapping of plain values.
    """
    whole = read_regular(path)
    try:
        content = parse(whole.decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"no YAML: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{type(content).__name__}, expected a mapping")
    if not content:
        raise DamagedFileError("nothing in it")
    changed = None
    if (line := _HEAD.match(whole)) is not None:
        found = hashlib.sha256(whole[line.end() :]).hexdigest()
        if found != line[1].decode():
            changed = f"checksum {found[:12]}, written {line[1].decode()[:12]}"
    return content, changed


def append_checksum(path: Path) -> None:
    """Add a last line with the SHA-256 of a file's bytes; PyTorch reads past it."""
    line = f"\n# checksum: {sha256_file(path)}\n"
    with path.open("ab") as stream:
        stream.write(line.encode())


def verify_checksum(path: Path) -> None:
    """Verify the line of ``append_checksum``; a file without that line passes.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is no regular file, or its bytes differ.
    """
    _require_regular(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - _LINE_BYTES))
        line = _LINE.search(stream.read())
        if line is None:
            return
        stream.seek(0)
        total, left = hashlib.sha256(), size - _LINE_BYTES
        while left and (part := stream.read(min(left, 1 << 20))):
            total.update(part)
            left -= len(part)
    if total.hexdigest() != line[1].decode():
        raise DamagedFileError(
            f"checksum {total.hexdigest()[:12]}, written {line[1].decode()[:12]}"
        )


def read_regular(path: Path) -> bytes:
    """The bytes of a file; pipes and devices are refused, since reading them might never end.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is something else.
    """
    _require_regular(path)
    return path.read_bytes()


def _require_regular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedFileError("no regular file")


def _digest(content: Any) -> str:
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _NoAliasDumper(yaml.SafeDumper):
    """YAML dumper that repeats equal values instead of writing aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
