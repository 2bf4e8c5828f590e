"""The state of a run, told by the records on disk of all processes that wrote it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from msseg_lightning.track.journal import Journal, Record
from msseg_lightning.track.process import is_alive, is_here

SILENT_S = 600.0
"""A process of another machine that wrote nothing for so long is taken for dead."""
WORST_FIRST = ("FAILED", "KILLED", "RUNNING", "SCHEDULED", "FINISHED")


@dataclasses.dataclass(frozen=True)
class RunState:
    """The state of a run.

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
    """What one process recorded from opening a run to its end.

    Args:
        start: in milliseconds since 1970.
        state: how it ended, or that it has not.
    """

    start: int
    state: RunState

    @property
    def end(self) -> float:
        """When it ended; infinite while it has not."""
        return math.inf if self.state.end is None else self.state.end


def worst(statuses: Iterable[str]) -> str:
    """Any failed is FAILED, else any killed is KILLED, else any running is RUNNING."""
    return min(statuses, key=WORST_FIRST.index)


def writers(folder: Path, key: str) -> list[Journal]:
    """The journals of the processes that write the run of a key.

    Args:
        folder: where the key is kept: a run's own tracking folder, or the one that holds those of
            all processes which share a run.
        key: from `run_key`.
    """
    files = [folder / "notes.jsonl", *sorted(folder.glob("*/notes.jsonl"))]
    journals = [Journal(file.parent) for file in files if file.is_file()]
    return [one for one in journals if (opened := one.opened()) and opened["key"] == key]


def state_of(journals: Sequence[Journal], dead: Path | None = None) -> RunState | None:
    """The state of the run that these journals record; None where they record none.

    RUNNING while a process is at it. Otherwise what was finished stays so, whoever was stopped
    afterwards, unless it was begun again since. Of attempts that were at it at the same time the
    worst counts, else the last.

    Args:
        journals: see `writers`.
        dead: folder of a journal whose process is known to be gone.
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
    together = [one for one in later if one is last or one.end > last.start]
    status = worst(one.state.status for one in together)
    return max((one for one in together if one.state.status == status), key=lambda o: o.end).state


def is_written(journal: Journal) -> bool:
    """Whether the process that opened the run still writes it, as far as can be known here."""
    opened = journal.opened()
    return opened is not None and not journal.closed and _lives(journal, opened)


def process_of(opened: Record) -> dict[str, str]:
    """Tags of the process that opened a run (see `process_tags`); empty where unknown."""
    return dict(opened.get("process", {}))


def _lives(journal: Journal, opened: Record) -> bool:
    process = process_of(opened)
    if is_here(process):
        return is_alive(process)
    return bool(process) and time.time() - journal.lines.stat().st_mtime < SILENT_S


def _attempts(journal: Journal, dead: bool) -> list[Attempt]:
    """Of one journal; an attempt that another follows in the same journal is over."""
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
        running = not dead and _lives(journal, opened)
        state = RunState("RUNNING") if running else RunState("KILLED", last, interrupted=True)
        found.append(Attempt(opened["time"], state))
    return found
