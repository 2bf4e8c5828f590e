"""Recovery after killed processes: unsent journals are sent, dead runs are marked KILLED."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import Timeout

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.track.journal import Journal
from msseg_lightning.track.process import is_alive, is_here, process_tags
from msseg_lightning.track.run_state import RunState, is_being_written, process_of
from msseg_lightning.track.sender import PARENT_TAG, Sender, set_state, update_summary_state
from msseg_lightning.track.store import open_client, without_password


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Result of ``replay`` for one journal.

    Args:
        folder: folder of the journal.
        uri: the store.
        sent: numbers of metric points and other records that were sent now, by kind.
        state_updated: whether the store had another state of the run, which was corrected.
        busy: another process is sending it; nothing was done.
        for_other_store: it was recorded for another store that lacks records; nothing was done.
    """

    folder: Path
    uri: str
    sent: dict[str, int]
    state_updated: bool = False
    busy: bool = False
    for_other_store: bool = False


def find_journals(places: Sequence[Path]) -> list[Journal]:
    """All journals below some folders, in the order of their paths."""
    found = {lines.parent.resolve() for place in places for lines in place.rglob("notes.jsonl")}
    return [Journal(folder) for folder in sorted(found)]


def replay(
    journals: Sequence[Journal], uri: str, artifacts: str | None = None, *, everything: bool = False
) -> Iterator[Replayed]:
    """Send the records that the store has not received yet.

    A journal may have been written by somebody else, so the caller gives the store and the place
    of files; those that the journal names are not used.

    Args:
        journals: from `find_journals`.
        uri: the store.
        artifacts: see `store.ensure_experiment`.
        everything: also send journals that were recorded for other stores.

    Raises:
        MssegError: a store is unavailable (exit 8); what was sent before stays sent.
    """
    for journal in journals:
        opened = journal.opened()
        if opened is None:
            continue
        if is_here(process_of(opened)) and is_being_written(journal):
            yield Replayed(journal.folder, uri, {}, busy=True)
            continue
        if not everything and opened["uri"] != uri:
            lacks = not (journal.closed and journal.complete(opened["uri"]))
            yield Replayed(journal.folder, opened["uri"], {}, for_other_store=lacks)
            continue
        try:
            with journal.sending_lock().acquire(timeout=0):
                sender = Sender(uri, journal, artifacts)
                sent = sender.deliver()
                yield Replayed(journal.folder, uri, sent, state_updated=sender.update_state())
        except Timeout:
            yield Replayed(journal.folder, uri, {}, busy=True)
        except Exception as error:
            raise MssegError(
                Problem(
                    "track.store_unavailable",
                    "the tracking store did not accept the records; they stay in the run folder",
                    file=journal.folder,
                    found=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                    expected=f"a reachable MLflow store at {without_password(uri)}",
                    remedy="start the server, or give --uri; then repeat `msseg sync`",
                    exit_code=ExitCode.STORE,
                )
            ) from error


def reap_dead_runs(uri: str) -> list[str]:
    """Mark runs of this machine whose process no longer exists as KILLED.

    A process is recognised by its id and start time. A run that several processes share names none
    of them: its state follows from their records.

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
        if not is_alive(run.data.tags):
            run_id = run.info.run_id
            set_state(client, run_id, RunState("KILLED", int(time.time() * 1000), interrupted=True))
            marked.append(run_id)
            if parent := run.data.tags.get(PARENT_TAG):
                update_summary_state(client, parent)
    return marked
