"""Tracking records of a run, kept in its folder until the tracking store has received them."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from msseg_lightning.core.files import (
    DamagedFileError,
    Fields,
    read_record,
    require_record,
    write_record,
)

log = logging.getLogger(__name__)

Record = dict[str, Any]


KINDS = {
    "open": ("uri", "experiment", "artifacts", "key", "name", "time", "tags", "parent"),
    "metrics": ("points",),
    "params": ("params",),
    "tags": ("tags",),
    "artifact": ("path", "folder"),
    "text": ("text", "file"),
    "dataset": ("name", "digest", "profile"),
    "close": ("status", "time"),
}
"""Kind of record (field ``do``) -> fields that it must hold."""


@dataclasses.dataclass(frozen=True)
class Position:
    """How much of a journal a tracking store has received.

    Args:
        uri: the store; for another store sending begins at the first record.
        run_id: MLflow's id of the run; None before the store was reached.
        sent: bytes of the journal that the store has.
        problem: why the last attempt failed.
        tried: time of the last failure, in seconds since 1970.
    """

    uri: str
    run_id: str | None = None
    sent: int = 0
    problem: str = ""
    tried: float = 0.0


class Journal:
    """Records in a JSON-lines file, and how many bytes of it the store has confirmed.

    The recorded process only appends (and flushes to disk, before anything is sent), so that a
    point is lost neither by an outage of the store nor by a kill. The sending process holds
    `sending_lock` and writes the position. A record may be sent twice (after a kill between sending
    and writing the position); every operation is idempotent. Nothing is removed, so all records can
    be sent to another store.

    Args:
        folder: the run folder's tracking folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines = folder / "notes.jsonl"
        self.state = folder / "sent.json"

    def begin(self) -> None:
        """Prepare for appending: remove a line that a killed process left unfinished."""
        if self.lines.exists():
            content = self.lines.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                os.truncate(self.lines, whole)
        self.lines.touch(mode=0o600)

    def append(self, records: Sequence[Record]) -> None:
        """Add records; on return they are on disk."""
        text = "".join(json.dumps(record, default=str) + "\n" for record in records)
        with self.lines.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def position(self, uri: str | None = None) -> Position:
        """Position of the store ``uri``; by default of the store that was last sent to."""
        fields: Fields = {"uri": str, "run_id": (str, type(None)), "sent": int, "problem": str}
        try:
            saved = Position(**read_record(self.state, {**fields, "tried": (int, float)}))
        except FileNotFoundError:
            return Position(uri or "")
        except (OSError, DamagedFileError, TypeError) as error:
            # sending everything again changes nothing in the store
            log.warning("%s is damaged (%s): all records are sent again", self.state, error)
            return Position(uri or "")
        return saved if uri in (None, saved.uri) else Position(uri or "")

    def confirm(self, position: Position) -> None:
        """Write the position of the store."""
        write_record(self.state, dataclasses.asdict(position))

    def pending(self, sent: int) -> Iterator[tuple[Record, int]]:
        """Records after ``sent`` bytes, each with the position to confirm once the store has it.

        A damaged one is left out, with a warning.
        """
        if not self.lines.exists():
            return
        with self.lines.open("rb") as stream:
            stream.seek(sent)
            for line in iter(stream.readline, b""):
                if not line.endswith(b"\n"):
                    return
                record = _read(line)
                if record is None:
                    log.warning("%s: a damaged record is left out", self.lines)
                else:
                    yield record, stream.tell()

    def complete(self, uri: str | None = None) -> bool:
        """Whether the store has all records."""
        return next(self.pending(self.position(uri).sent), None) is None

    def opened(self) -> Record | None:
        """The latest record that opens the run; None in an empty journal."""
        opens = [record for record, _ in self.pending(0) if record["do"] == "open"]
        return opens[-1] if opens else None

    @property
    def closed(self) -> bool:
        """Whether the end of the run was recorded."""
        ends = [record["do"] for record, _ in self.pending(0) if record["do"] in ("open", "close")]
        return ends[-1:] == ["close"]

    @property
    def run_folder(self) -> Path:
        """The run folder, which holds the tracking folder ``track``."""
        in_track = self.folder.parent.name == "track" and self.folder.name != "track"
        return (self.folder.parent.parent if in_track else self.folder.parent).resolve()

    def resolve(self, path: str | Path, within: Path) -> Path | None:
        """Absolute path of a file or folder that a record names.

        None, with a warning, where it lies outside of ``within``: a journal may have been written
        by somebody else, so it must not cause other files of this computer to be sent or changed.

        Args:
            path: relative to the journal's folder.
            within: folder in which it must lie.
        """
        found = (self.folder / path).resolve()
        if found.is_relative_to(within):
            return found
        log.warning("%s: %s lies outside of %s and is left out", self.lines, path, within)
        return None

    def sending_lock(self) -> FileLock:
        """Lock held while sending; the operating system releases it when the process dies."""
        return FileLock(self.folder / "sent.lock")


def _read(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("do") not in KINDS:
        return None
    return record if all(key in record for key in KINDS[record["do"]]) else None


def run_key(folder: Path) -> str:
    """Permanent key of the run that is recorded from a folder, the same for all processes.

    It exists before the run has an MLflow id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "key.json"
    with FileLock(folder / "key.lock"):
        if not file.exists():
            write_record(file, {"key": uuid.uuid4().hex})
        remedy = "delete it and give the command again: the store then holds it as another run"
        return str(require_record(file, remedy, {"key": str})["key"])


def encode(value: float) -> float | str:
    """Number for JSON, which has no NaN and no infinity; ``float()`` reads both forms."""
    number = float(value)
    return number if math.isfinite(number) else repr(number)
