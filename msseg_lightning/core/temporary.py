"""Temporary files and folders that name the process they belong to.

A process that is killed leaves them behind. The next one that writes into the same folder removes
those whose process is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".partial-"
FOREIGN_S = 24 * 3600.0
"""Age after which what another machine left on a shared disk is removed."""
CLOCK_S = 2.0
"""Error of the start time of a process, which is compared with the time of a file."""

_NAME = re.compile(rf"{re.escape(PREFIX)}(?P<machine>[0-9a-f]{{12}})-(?P<pid>\d+)-[0-9a-f]{{8}}-.*")
_LONGEST = 100
_seen: set[Path] = set()


def machine() -> str:
    """Digest of the machine; a container with a process namespace of its own is another one."""
    name = platform.node()
    with contextlib.suppress(OSError):  # Linux only
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def temporary_path(target: Path) -> Path:
    """A new name beside ``target`` with its suffixes, by which writers choose their format.

    Before a process takes the first one in a folder, it removes what killed ones left there.
    """
    if target.parent not in _seen:
        _seen.add(target.parent)
        remove_leftovers(target.parent)
    ending = target.name[-_LONGEST:]  # longer ones would not fit into a name
    return target.with_name(f"{PREFIX}{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{ending}")


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new empty folder beside ``target``; it is removed unless the block renamed it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files and folders whose process is gone; return what was removed.

    Those of another machine, whose processes cannot be looked up, are removed after a day.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{PREFIX}*"):
            found = _NAME.fullmatch(path.name)
            if found is None or _in_use(path, found["machine"], int(found["pid"])):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _in_use(path: Path, where: str, pid: int) -> bool:
    try:
        modified = path.lstat().st_mtime
    except OSError:  # just renamed into place
        return True
    if where != machine():
        return time.time() - modified < FOREIGN_S
    import psutil

    try:  # a process that began after the last write has only got the same number
        process = psutil.Process(pid)
        began = process.create_time()
        return process.status() != psutil.STATUS_ZOMBIE and bool(began < modified + CLOCK_S)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
