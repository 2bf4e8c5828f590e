"""Identity of the process that records a run, and whether it is alive."""

from __future__ import annotations

import contextlib
import os

from msseg_lightning.core.temporary import machine


def process_tags() -> dict[str, str]:
    """MLflow tags that identify this process: digest of the machine, process id and start time.

    A container with its own process namespace counts as a machine of its own.
    """
    import psutil

    return {
        "process.machine": machine(),
        "process.pid": str(os.getpid()),
        "process.started": _started(psutil.Process()),
    }


def is_here(tags: dict[str, str]) -> bool:
    """Whether the process of these tags ran on this machine."""
    return tags.get("process.machine") == machine()


def is_alive(tags: dict[str, str]) -> bool:
    """Whether the process of these tags, which ran on this machine, is still running.

    The start time is compared too, since a process id can be used again.
    """
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(tags["process.pid"]))
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(float(_started(process)) - float(tags["process.started"])) < 1.0
        )
    return False


def _started(process: object) -> str:
    """Start time in seconds since the machine booted, which does not change with its clock."""
    import psutil

    return f"{process.create_time() - psutil.boot_time():.2f}"  # type: ignore[attr-defined]
