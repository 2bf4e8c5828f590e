"""Start a temporary PostgreSQL server from the packages of the system."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import free_port

PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu keep programs that they leave out of the path."""


def absent() -> str:
    """Reason why no cluster can be started; empty if one can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'msseg-lightning[postgres]')"
    if program("initdb") is None:
        return "PostgreSQL is not installed (apt install postgresql)"
    if os.getuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def program(name: str) -> str | None:
    """Path of a program of PostgreSQL."""
    newest_first = sorted(PACKAGED.glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or next(map(str, newest_first), None)


def _other_user() -> str | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return None


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster on a free port of 127.0.0.1; yields the address of an empty database.

    It syncs as a real one does, and is removed at the end.
    """
    user = _other_user() if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)

        def run(command: str, *words: str) -> None:
            path = program(command)
            assert path is not None
            done = subprocess.run(
                [path, *words], cwd=folder, user=user, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")

        data, port = str(folder / "data"), str(free_port())
        run("initdb", "-D", data, "-U", "msseg", "--auth=trust", "--encoding=UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://msseg@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
