"""What killed processes left behind: journals not sent, runs that look as if they went on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.track.journal import Journal
from msseg_lightning.track.sender import Sender, close_run
from msseg_lightning.track.store import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What became of one journal.

    Args:
        folder: where it lies.
        uri: the store.
        sent: how many metric points and other records were sent now, by kind.
        busy: a living process is sending it; nothing was done.
    """

    folder: Path
    uri: str
    sent: dict[str, int]
    busy: bool = False


def find_journals(places: Sequence[Path]) -> list[Journal]:
    """All journals below some folders, in the order of their paths."""
    found = {lines.parent.resolve() for place in places for lines in place.rglob("notes.jsonl")}
    return [Journal(folder) for folder in sorted(found)]


def replay(journals: Sequence[Journal], uri: str | None = None) -> Iterator[Replayed]:
    """Send what is unsent; what the store has already is not sent again.

    Args:
        journals: from `find_journals`.
        uri: another store than each journal's own; it is told everything.

    Raises:
        MssegError: a store is away (exit 8); what was sent before stays sent.
    """
    for journal in journals:
        opened = journal.opened()
        if opened is None:
            continue
        target = uri or opened["uri"]
        try:
            with journal.sending().acquire(timeout=0):
                sender = Sender(target, journal)
                sent = sender.deliver()
                if not journal.closed:
                    mark_killed(sender.client, journal.position(target).run_id, journal.last_ms())
                yield Replayed(journal.folder, target, sent)
        except Timeout:
            yield Replayed(journal.folder, target, {}, busy=True)
        except Exception as error:
            raise MssegError(
                Problem(
                    "track.store_unavailable",
                    "the tracking store did not take what is unsent; it stays in the run folder",
                    file=journal.folder,
                    found=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                    expected=f"a reachable MLflow store at {without_password(target)}",
                    remedy="start the server, or give --uri; then repeat `msseg sync`",
                    exit_code=ExitCode.STORE,
                )
            ) from error


def without_password(uri: str) -> str:
    """An address that may be shown."""
    scheme, mark, rest = uri.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{mark}{user.partition(':')[0]}{at}{place}"


def mark_killed(client: MlflowClient, run_id: str | None, last_ms: int) -> None:
    """The process of this run ended without a word.

    A run that another process has closed since is left as that one said.

    Args:
        client: of the store.
        run_id: None does nothing.
        last_ms: when the process was last heard of, milliseconds since 1970.
    """
    if run_id is None:
        return
    end = client.get_run(run_id).info.end_time
    if end is None or end <= last_ms:
        client.set_tag(run_id, "interrupted", "true")
        close_run(client, run_id, "KILLED", last_ms)


def reap_dead_runs(uri: str) -> list[str]:
    """Mark runs whose process is gone (kill -9, out of memory, power) as KILLED.

    Only runs of this machine are judged; a process is recognised by its number and start time.

    Returns:
        MLflow ids of the runs marked; they carry the tag ``interrupted``.
    """
    client = open_client(uri)
    here = process_tags()["process.machine"]
    marked = []
    experiments = [found.experiment_id for found in client.search_experiments()]
    running = client.search_runs(
        experiments,
        f"attributes.status = 'RUNNING' and tags.`process.machine` = '{here}'",
        max_results=1000,
    )
    for run in running:
        tags = run.data.tags
        if not is_alive(int(tags["process.pid"]), tags["process.started"]):
            mark_killed(client, run.info.run_id, int(time.time() * 1000))
            marked.append(run.info.run_id)
    return marked


def process_tags() -> dict[str, str]:
    """Which process writes the run: a digest of the machine's name, number and start time."""
    import psutil

    machine = hashlib.blake2b(platform.node().encode(), digest_size=6).hexdigest()
    return {
        "process.machine": machine,
        "process.pid": str(os.getpid()),
        "process.started": f"{psutil.Process().create_time():.2f}",
    }


def is_alive(pid: int, started: str) -> bool:
    """Whether the process with this number is still the one that started then."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - float(started)) < 1.0
        )
    return False
