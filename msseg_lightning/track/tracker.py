"""Recording of a run in MLflow without blocking the training."""

from __future__ import annotations

import dataclasses
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msseg_lightning.track.journal import Journal, Record, encode, run_key
from msseg_lightning.track.process import process_tags
from msseg_lightning.track.sender_process import SENDER_PROCESS, SenderProcess
from msseg_lightning.track.store import sync_command
from msseg_lightning.track.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from types import TracebackType

LOG = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

FLUSH_S = 1.0
POLL_S = 0.05
SYSTEM_METRICS_S = 10.0


@dataclasses.dataclass(frozen=True)
class Parent:
    """A parent run, which the first of its child runs creates.

    Args:
        folder: holds the key of the parent run, see `run_key`.
        name: name of the run in MLflow.
        tags: as for `Tracker.start`.
    """

    folder: Path
    name: str
    tags: Mapping[str, object]


class Tracker:
    """One MLflow run.

    Every call only puts a record into a queue. A background thread writes the records to a journal
    in the run folder (flushed to disk); the sender process sends them to the store. While the store
    is unavailable they stay in the journal, and `recovery.replay` sends the records that a finished
    or killed process left unsent. No call waits for the store or raises its errors.

    Use `Tracker.start`, then `finish`, or a ``with`` block that maps exceptions to a status.

    Args:
        uri: tracking store, see `Tracking`.
        journal: holds the records until they are sent.
        sender_process: sends the records.
        system_metrics: sample CPU, memory and GPU every 10 s.
    """

    def __init__(
        self,
        uri: str,
        journal: Journal,
        sender_process: SenderProcess = SENDER_PROCESS,
        *,
        system_metrics: bool = True,
    ) -> None:
        self.uri, self.journal, self.sender_process = uri, journal, sender_process
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._system = SystemMetrics(SYSTEM_METRICS_S) if system_metrics else None
        self._closing = False
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._write_records, name="tracker", daemon=True)

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        *,
        spool: Path,
        parent: Parent | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        key: str | None = None,
        artifacts: str | None = None,
        sender_process: SenderProcess = SENDER_PROCESS,
        system_metrics: bool = True,
    ) -> Tracker:
        """Open a run, or continue the one that was recorded from this folder before.

        Args:
            uri: tracking store.
            experiment: MLflow experiment; created if missing.
            run_name: name of the run in MLflow.
            spool: folder for the journal, e.g. ``<run folder>/track``; of one process at a time.
            parent: the run this one is nested in (one child per fold).
            tags: system, family, fold, seed, data, data_hash, split_hash, commit, protocol, ...
            params: flat and short; set once, see `log_params`.
            key: from `run_key`, where several spools write one run; the spool's own if not given.
            artifacts: see `store.ensure_experiment`.
            sender_process: see the class.
            system_metrics: see the class.
        """
        journal = Journal(spool)
        journal.begin()
        tracker = cls(uri, journal, sender_process, system_metrics=system_metrics)
        record: Record = {
            "do": "open",
            "uri": uri,
            "experiment": experiment,
            "artifacts": artifacts,
            "key": key or run_key(spool),
            "name": run_name,
            "time": _now(),
            # a run that several processes share does not end with one of them
            "tags": _texts(tags or {}) | (process_tags() if key is None else {}),
            "process": process_tags(),
            "parent": None,
        }
        if parent is not None:
            folder = os.path.relpath(parent.folder.resolve(), spool.resolve())
            record["parent"] = {
                "folder": folder,
                "name": parent.name,
                "tags": _texts(parent.tags),
            }
        tracker._put(record)
        tracker._thread.start()
        if params:
            tracker.log_params(params)
        return tracker

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while the store has not been reached."""
        return self.journal.position(self.uri).run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at a step; returns at once and never raises.

        Names are grouped by slashes: ``train/loss``, ``val/lesion_f1``, ``test/dice``.
        """
        now = _now()
        points = []
        for name, value in metrics.items():
            try:
                points.append([metric_name(name), encode(value), now, int(step)])
            except (TypeError, ValueError):
                LOG.warning("metric %s is not a number and was not recorded", name)
        if points:
            self._put({"do": "metrics", "points": points})

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record parameters; a new value for a known one becomes the tag ``resumed.<name>``.

        MLflow cannot change a parameter.
        """
        self._put({"do": "params", "params": _texts(params)})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set or change tags."""
        self._put({"do": "tags", "tags": _texts(tags)})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Record a file, or the content of a folder, which must stay in place until it is sent."""
        place = os.path.relpath(Path(path).resolve(), self.journal.folder.resolve())
        self._put({"do": "artifact", "path": place, "folder": folder})

    def log_text(self, text: str, file: str) -> None:
        """Record a text as an artifact named ``file``, e.g. ``config.yaml``."""
        self._put({"do": "text", "text": text, "file": file})

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, int]) -> None:
        """Record the data set of the run: its name, the hash of its files and what it holds."""
        self._put({"do": "dataset", "name": name, "digest": digest, "profile": dict(profile)})

    def finish(self, status: Status = "FINISHED", timeout_s: float = 60.0) -> bool:
        """Close the run and send the remaining records.

        If the store is unavailable, this does not wait for it.

        Returns:
            Whether the store has all records. Otherwise `msseg sync` can send them later.
        """
        if not self._closing:
            self._closing = True
            self._put({"do": "close", "status": status, "time": _now()})
            self._put(None)
            self._thread.join(timeout_s)
            self._wait(timeout_s)
            self.sender_process.forget(self.uri, self.journal)
        return self.journal.complete(self.uri)

    def _wait(self, timeout_s: float) -> None:
        """Wait until the store has all records, does not answer, or the time is over."""
        started, end = time.time(), time.monotonic() + timeout_s
        self.sender_process.notify(self.uri, self.journal, urgent=True)
        while not self.journal.complete(self.uri):
            position = self.journal.position(self.uri)
            if (position.problem and position.tried > started) or time.monotonic() > end:
                self._warn(
                    "unsent",
                    f"the tracking store was not reached ({position.problem or 'no answer'}); "
                    f"`{sync_command(self.uri, self.journal.run_folder)}` sends what is unsent",
                )
                return
            if not self.sender_process.alive:
                self.sender_process.notify(self.uri, self.journal, urgent=True)
            time.sleep(POLL_S)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if _is_pruned(error):
            self.set_tags({"pruned": True})
        self.finish(status_of(error))

    def _put(self, record: Record | None) -> None:
        self._queue.put(record)

    def _write_records(self) -> None:
        unwritten: list[Record] = []
        last = False
        while not last:
            records, last = self._collect()
            unwritten += records
            if self._system is not None and not last:
                unwritten += self._system.sample()
            try:
                if unwritten:
                    self.journal.append(unwritten)
                unwritten = []
            except OSError as error:  # disk full: keep them in memory and try again
                self._warn("disk", f"the journal cannot be written: {error.strerror}")
            if not last:
                self.sender_process.notify(self.uri, self.journal)
                self._report_problem()

    def _collect(self) -> tuple[list[Record], bool]:
        """Records that arrived within ``FLUSH_S``, and whether they are the last."""
        records: list[Record] = []
        end = time.monotonic() + FLUSH_S
        while (rest := end - time.monotonic()) > 0:
            try:
                record = self._queue.get(timeout=rest)
            except queue.Empty:
                break
            if record is None:
                return records, True
            records.append(record)
        return records, False

    def _report_problem(self) -> None:
        problem = self.journal.position(self.uri).problem
        if problem:
            self._warn(
                "unavailable", f"the tracking store is unavailable ({problem}); points are kept"
            )
        else:
            self._warned.discard("unavailable")

    def _warn(self, kind: str, message: str) -> None:
        """Log a warning once per outage."""
        if kind not in self._warned:
            LOG.warning(message)
            self._warned.add(kind)


def status_of(error: BaseException | None) -> Status:
    """Status of a run from the exception that ended it.

    Ctrl-C, SIGTERM and the end of a terminal, and the exceptions into which Lightning turns them,
    are KILLED; a pruned trial is FINISHED.
    """
    if error is None or _is_pruned(error):
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "SIGTERMException":
        return "KILLED"
    if isinstance(error, SystemExit):
        if error.code in (75, 129, 130, 143):
            return "KILLED"
        return "FINISHED" if error.code in (None, 0) else "FAILED"
    return "FAILED"


def _is_pruned(error: BaseException | None) -> bool:
    return error is not None and type(error).__name__ == "TrialPruned"


def metric_name(name: str) -> str:
    """Name of a metric that MLflow accepts; other characters than ``_-. :/`` become ``_``."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _now() -> int:
    return int(time.time() * 1000)
