"""A line of work for the tracking store that survives outages and kills."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import write_json

Record = dict[str, Any]


class Journal:
    """Records in a JSON-lines file, and how many bytes of it the store has confirmed.

    Written before sending and flushed to disk, so that a point is lost neither by an outage of the
    store nor by a kill of the process. A record may be sent twice (a kill between sending and
    noting so); every operation is idempotent.

    Args:
        folder: the run folder's tracking folder.
        key: names the run for ever, also before the store has given it an id.
    """

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.key = key
        self.lines = folder / f"{key}.jsonl"
        self.state = folder / f"{key}.json"
        self.run_id: str | None = None
        self.sent = 0
        if self.state.exists():
            saved = json.loads(self.state.read_text(encoding="utf-8"))
            self.run_id, self.sent = saved["run_id"], int(saved["sent"])
        if self.lines.exists():
            self._drop_torn_line()
        self.lines.touch(mode=0o600)

    def _drop_torn_line(self) -> None:
        content = self.lines.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(self.lines, whole)

    def append(self, records: Sequence[Record]) -> None:
        """Add records; on return they are on disk."""
        text = "".join(json.dumps(record, default=str) + "\n" for record in records)
        with self.lines.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def pending(self) -> Iterator[tuple[Record, int]]:
        """Unsent records, each with the position to confirm once the store has it."""
        with self.lines.open("rb") as stream:
            stream.seek(self.sent)
            for line in iter(stream.readline, b""):
                if not line.endswith(b"\n"):
                    return
                yield json.loads(line), stream.tell()

    @property
    def complete(self) -> bool:
        """Whether the store has everything."""
        return self.sent >= self.lines.stat().st_size

    def confirm(self, position: int, run_id: str | None) -> None:
        """Note that the store has all up to ``position``."""
        self.sent, self.run_id = position, run_id
        write_json(self.state, {"key": self.key, "run_id": run_id, "sent": position})

    def remove(self) -> None:
        """Forget a journal the store has confirmed completely."""
        self.lines.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


def encode(value: float) -> float | str:
    """JSON has no NaN and no infinity; ``float()`` reads both forms."""
    number = float(value)
    return number if math.isfinite(number) else repr(number)
