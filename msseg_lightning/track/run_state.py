"""State of a run, computed from the records on disk of all processes that wrote it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from msseg_lightning.track.journal import Journal, Record
from msseg_lightning.track.process import is_alive, is_here

SILENCE_LIMIT_S = 600.0
"""Seconds without a record after which a process of another machine counts as dead."""
WORST_FIRST = ("FAILED", "KILLED", "RUNNING", "SCHEDULED", "FINISHED")


@dataclasses.dataclass(frozen=True)
class RunState:
    """State of a run.

    Args:
        status: RUNNING, FINISHED, FAILED or KILLED.
        end: when it ended, in milliseconds since 1970; None while it runs.
        interrupted: it was killed, and its process could not record that.
    """

    status: str
    end: int | None = None
    interrupted: bool = False


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Part of a run that one process recorded, from opening the run to its end.

    Args:
        start: in milliseconds since 1970.
        state: how it ended, or RUNNING.
    """

    start: int
    state: RunState

    @property
    def end(self) -> float:
        """When it ended; infinite while it has not."""
        return math.inf if self.state.end is None else self.state.end


def worst_status(statuses: Iterable[str]) -> str:
    """The worst of several statuses: FAILED, else KILLED, else RUNNING, else FINISHED."""
    return min(statuses, key=WORST_FIRST.index)


def journals_of_run(folder: Path, key: str) -> list[Journal]:
    """Journals of all processes that write the run with a key.

    Args:
        folder: folder of the key: a run's own tracking folder, or the one that holds those of all
            processes that share a run.
        key: from `run_key`.
    """
    files = [folder / "notes.jsonl", *sorted(folder.glob("*/notes.jsonl"))]
    journals = [Journal(file.parent) for file in files if file.is_file()]
    return [one for one in journals if (opened := one.opened()) and opened["key"] == key]


def state_of(journals: Sequence[Journal], dead: Path | None = None) -> RunState | None:
    """The state of the run that these journals record; None where they record none.

    RUNNING while any process works on it. Otherwise a run that finished stays FINISHED unless it
    was started again later. Of attempts that ran at the same time the worst status counts, else
    that of the last attempt.

    Args:
        journals: see `journals_of_run`.
        dead: folder of a journal whose process is known to be dead.
    """
    attempts = [one for journal in journals for one in _attempts(journal, journal.folder == dead)]
    if not attempts:
        return None
    if any(one.state.end is None for one in attempts):
        return RunState("RUNNING")
    finished = [one for one in attempts if one.state.status == "FINISHED"]
    last_finished = max(finished, key=lambda one: one.end, default=None)
    later = [one for one in attempts if last_finished is None or one.start > last_finished.end]
    if last_finished is not None and not later:
        return last_finished.state
    last = max(later, key=lambda one: one.start)
    concurrent = [one for one in later if one is last or one.end > last.start]
    status = worst_status(one.state.status for one in concurrent)
    return max((one for one in concurrent if one.state.status == status), key=lambda o: o.end).state


def is_being_written(journal: Journal) -> bool:
    """Whether the process that opened the run is still recording it, as far as is known here."""
    opened = journal.opened()
    return opened is not None and not journal.closed and _is_alive(journal, opened)


def process_of(opened: Record) -> dict[str, str]:
    """Tags of the process that opened a run (see `process_tags`); empty where unknown."""
    return dict(opened.get("process", {}))


def _is_alive(journal: Journal, opened: Record) -> bool:
    process = process_of(opened)
    if is_here(process):
        return is_alive(process)
    return bool(process) and time.time() - journal.lines.stat().st_mtime < SILENCE_LIMIT_S


def _attempts(journal: Journal, dead: bool) -> list[Attempt]:
    """Attempts in one journal; one without an end that another follows counts as ended."""
    found: list[Attempt] = []
    opened: Record | None = None
    last = 0
    for record, _ in journal.pending(0):
        if record["do"] == "open":
            opened = record
        if "time" in record:
            last = max(last, record["time"])
        last = max([last, *(point[2] for point in record.get("points", ()))])
        if record["do"] == "close" and opened is not None:
            found.append(Attempt(opened["time"], RunState(record["status"], record["time"])))
            opened = None
    if opened is not None:
        running = not dead and _is_alive(journal, opened)
        state = RunState("RUNNING") if running else RunState("KILLED", last, interrupted=True)
        found.append(Attempt(opened["time"], state))
    return found
