"""Records a run in MLflow without ever holding up the work it records."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msseg_lightning.track.journal import Journal, Record, encode
from msseg_lightning.track.sender import Sender
from msseg_lightning.track.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from types import TracebackType

LOG = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

FLUSH_S = 1.0
RETRY_S = 5.0
SYSTEM_S = 10.0


class Tracker:
    """One MLflow run.

    Every call only puts a note into a queue. A background thread writes the notes to a journal in
    the run folder (flushed to disk) and sends them to the store; while the store is away they wait
    there, and `replay` delivers what a finished or killed process left behind. Nothing here raises
    into the caller's work.

    Use `Tracker.start`, then `finish`, or a ``with`` block that maps exceptions to a status.

    Args:
        uri: tracking store, from `store.ensure_store` or an MLflow server's address.
        journal: where notes wait.
        system_metrics: sample CPU, memory and GPU every 10 s.
    """

    def __init__(self, uri: str, journal: Journal, *, system_metrics: bool = True) -> None:
        self.journal = journal
        self._sender = Sender(uri, journal)
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._system = SystemMetrics(SYSTEM_S) if system_metrics else None
        self._created = threading.Event()
        self._closing = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        *,
        spool: Path,
        parent: Tracker | str | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        resume_run_id: str | None = None,
        system_metrics: bool = True,
        wait_s: float = 20.0,
    ) -> Tracker:
        """Open a run, or continue one.

        Args:
            uri: tracking store.
            experiment: MLflow experiment; created where absent.
            run_name: what the UI shows.
            spool: folder for the journal, e.g. ``<run folder>/track``.
            parent: the run this one is nested in (one child per fold), or its MLflow id.
            tags: system, family, fold, seed, data, data_hash, split_hash, commit, protocol, ...
            params: flat and short; set once, see `log_params`.
            resume_run_id: MLflow id of an earlier, interrupted run; it becomes RUNNING again.
            system_metrics: see the class.
            wait_s: how long to wait for the run's id. Without a store the call still returns.
        """
        key = _key_of(spool, resume_run_id) or uuid.uuid4().hex
        tracker = cls(uri, Journal(spool, key), system_metrics=system_metrics)
        record: Record = {
            "do": "open",
            "experiment": experiment,
            "name": run_name,
            "time": _now(),
            "tags": {name: str(value) for name, value in (tags or {}).items()} | process_tags(),
            "resume": resume_run_id,
        }
        if isinstance(parent, Tracker):
            record["parent_key"] = parent.journal.key
        elif parent is not None:
            record["parent"] = parent
        tracker._put(record)
        tracker._thread.start()
        if params:
            tracker.log_params(params)
        tracker._created.wait(wait_s)
        return tracker

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while the store has not been reached."""
        return self.journal.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Note numbers at a step; returns at once and never raises.

        Slashes group: ``train/loss``, ``val/lesion_f1``, ``test/dice``.
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
        """Note settings; a new value for a known one becomes the tag ``resumed.<name>``.

        MLflow never changes a parameter.
        """
        self._put({"do": "params", "params": {k: str(v) for k, v in params.items()}})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set or change tags."""
        self._put({"do": "tags", "tags": {name: str(value) for name, value in tags.items()}})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a folder's content, into the run; it must stay in place until then."""
        self._put({"do": "artifact", "path": str(Path(path).resolve()), "folder": folder})

    def log_text(self, text: str, file: str) -> None:
        """Keep a text as an artifact named ``file``, e.g. ``config.yaml``."""
        self._put({"do": "text", "text": text, "file": file})

    def finish(self, status: Status = "FINISHED", timeout_s: float = 60.0) -> bool:
        """Close the run and deliver what is left.

        Returns:
            Whether the store has everything. False: the journal stays for `replay`.
        """
        if self._closing.is_set():
            return self.journal.complete
        self._put({"do": "close", "status": status, "time": _now()})
        self._closing.set()
        self._put(None)
        self._thread.join(timeout_s)
        if not self._thread.is_alive() and self.journal.complete:
            self.journal.remove()
            return True
        LOG.warning("the tracking store was not reached; unsent points wait in %s", "track/")
        return False

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

    def _work(self) -> None:
        retry_at = 0.0
        unwritten: list[Record] = []
        while True:
            records, last = self._collect()
            unwritten += records
            if self._system is not None and not last:
                unwritten += self._system.sample()
            try:
                if unwritten:
                    self.journal.append(unwritten)
                unwritten = []
            except OSError as error:  # disk full: keep them in memory and try again
                self._warn(f"the journal cannot be written: {error.strerror}")
            if time.monotonic() >= retry_at or last:
                retry_at = 0.0 if self._deliver() else time.monotonic() + RETRY_S
            if last:
                return

    def _collect(self) -> tuple[list[Record], bool]:
        """What has come in within a second, metrics merged; True with the last."""
        records: list[Record] = []
        end = time.monotonic() + FLUSH_S
        while (rest := end - time.monotonic()) > 0:
            try:
                record = self._queue.get(timeout=rest)
            except queue.Empty:
                break
            if record is None:
                return _merged(records), True
            records.append(record)
            if not self._created.is_set():
                break  # the caller waits for the run's id
        return _merged(records), False

    def _deliver(self) -> bool:
        try:
            self._sender.deliver()
        except Exception as error:  # a store has a hundred ways to be away
            self._warn(f"the tracking store is away ({type(error).__name__}); points are kept")
            return False
        finally:
            if self.journal.run_id is not None:
                self._created.set()
        self._warned = False
        return True

    def _warn(self, message: str) -> None:
        """Say it once per outage, not once per second."""
        if not self._warned:
            LOG.warning(message)
            self._warned = True


def replay(uri: str, spool: Path) -> int:
    """Deliver what earlier processes left in a run's tracking folder.

    Journals still being written by a living process must not be replayed: call it for runs that
    have ended.

    Returns:
        Number of journals that are now complete (and removed).

    Raises:
        MssegError: the store is away (exit 8); what was delivered stays delivered.
    """
    from msseg_lightning.core.problem import ExitCode, MssegError, Problem

    done = 0
    for lines in sorted(spool.glob("*.jsonl")):
        journal = Journal(spool, lines.stem)
        try:
            Sender(uri, journal).deliver()
        except Exception as error:
            raise MssegError(
                Problem(
                    "track.store_unavailable",
                    "the tracking store did not take the waiting points",
                    found=type(error).__name__,
                    expected="a reachable MLflow store",
                    remedy="start the server or check track.uri, then repeat",
                    exit_code=ExitCode.STORE,
                )
            ) from error
        journal.remove()
        done += 1
    return done


def reap_dead_runs(uri: str) -> list[str]:
    """Mark runs whose process is gone (kill -9, out of memory, power) as KILLED.

    Only runs of this machine are judged; a process is recognised by its number and start time.

    Returns:
        MLflow ids of the runs marked; they carry the tag ``interrupted``.
    """
    from msseg_lightning.track.store import open_client

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
        if not _alive(int(tags["process.pid"]), tags["process.started"]):
            client.set_tag(run.info.run_id, "interrupted", "true")
            client.set_terminated(run.info.run_id, status="KILLED")
            marked.append(run.info.run_id)
    return marked


def status_of(error: BaseException | None) -> Status:
    """How a run ended, judged by the exception that ended it.

    Ctrl-C and SIGTERM are KILLED, also in the shapes Lightning gives them; a pruned trial is a
    finished one.
    """
    if error is None or _is_pruned(error):
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "SIGTERMException":
        return "KILLED"
    if isinstance(error, SystemExit):
        if error.code in (130, 143):
            return "KILLED"
        return "FINISHED" if error.code in (None, 0) else "FAILED"
    return "FAILED"


def _is_pruned(error: BaseException | None) -> bool:
    return error is not None and type(error).__name__ == "TrialPruned"


def process_tags() -> dict[str, str]:
    """Which process writes the run: a digest of the machine's name, number and start time."""
    import psutil

    machine = hashlib.blake2b(platform.node().encode(), digest_size=6).hexdigest()
    return {
        "process.machine": machine,
        "process.pid": str(os.getpid()),
        "process.started": f"{psutil.Process().create_time():.2f}",
    }


def _alive(pid: int, started: str) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - float(started)) < 1.0
        )
    return False


def _key_of(spool: Path, run_id: str | None) -> str | None:
    """The journal of an interrupted run that is to be continued."""
    if run_id is None or not spool.is_dir():
        return None
    for lines in sorted(spool.glob("*.jsonl")):
        journal = Journal(spool, lines.stem)
        if journal.run_id == run_id:
            return journal.key
    return None


def metric_name(name: str) -> str:
    """MLflow takes letters, digits and ``_-. :/``; anything else becomes ``_``."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def _merged(records: list[Record]) -> list[Record]:
    """Neighbouring metric records as one, up to MLflow's 1000 points per request."""
    merged: list[Record] = []
    for record in records:
        last: dict[str, Any] = merged[-1] if merged else {}
        if (
            record["do"] == "metrics" == last.get("do")
            and len(last["points"]) + len(record["points"]) <= 1000
        ):
            last["points"] += record["points"]
        else:
            merged.append(record)
    return merged


def _now() -> int:
    return int(time.time() * 1000)
