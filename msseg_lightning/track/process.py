"""Which process writes a run, and whether it lives."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path


def process_tags() -> dict[str, str]:
    """Which process this is: a digest of the machine, the process's number and its start time.

    A container with processes of its own is a machine of its own, whatever name it has.
    """
    import psutil

    return {
        "process.machine": _machine(),
        "process.pid": str(os.getpid()),
        "process.started": _started(psutil.Process()),
    }


def is_here(tags: dict[str, str]) -> bool:
    """Whether the process of these tags ran on this machine."""
    return tags.get("process.machine") == _machine()


def is_alive(tags: dict[str, str]) -> bool:
    """Whether the process of these tags, of this machine, still runs.

    Its number may have been given to another process since; that one started at another time.
    """
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(tags["process.pid"]))
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(float(_started(process)) - float(tags["process.started"])) < 1.0
        )
    return False


def _machine() -> str:
    name = platform.node()
    with contextlib.suppress(OSError):  # Linux only
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def _started(process: object) -> str:
    """Seconds from the start of the machine: those since 1970 change when the clock is set."""
    import psutil

    return f"{process.create_time() - psutil.boot_time():.2f}"  # type: ignore[attr-defined]
