"""Test of whether a folder's file system supports locks."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import tempfile
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def require_locks(folder: Path) -> None:
    """Check once per process that files in a folder can be locked.

    Where they cannot, waiting for a lock would never end, and two processes could write to one
    place.

    Raises:
        MssegError: the file system has no locks (exit 5).
    """
    folder.mkdir(parents=True, exist_ok=True)
    error = _error(folder.resolve())
    if error:
        raise MssegError(
            Problem(
                "environment.locks",
                "the file system of this folder does not support locks",
                file=folder,
                found=os.strerror(error),
                expected="a file system with locks, such as a local disk",
                remedy="name a folder on another disk: paths.runs=FOLDER paths.cache=FOLDER, or "
                "have the lock service of the network disk started",
                exit_code=ExitCode.ENVIRONMENT,
            )
        )


@functools.lru_cache(maxsize=1024)
def _error(folder: Path) -> int:
    with tempfile.TemporaryFile(dir=folder) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno if error.errno in _UNSUPPORTED else 0
    return 0
