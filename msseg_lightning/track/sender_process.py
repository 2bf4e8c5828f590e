"""A separate process that sends journals to the tracking store.

Importing MLflow costs some 4 s of processor time, a new store 5 s, every commit holds the
interpreter for milliseconds, and an upload or an outage may take minutes: none of that happens in
the process that trains. The two share only the journals on disk. After the training process was
killed, the sender process sends the remaining records, marks the run KILLED and ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from msseg_lightning.track.journal import Journal
from msseg_lightning.track.recovery import reap_dead_runs
from msseg_lightning.track.sender import Sender

START_AFTER_S = 15.0
"""Seconds before the process starts, so that the first training step comes first."""
RETRY_S = 5.0

Request = tuple[str, str, bool]
"""(tracking store, folder of the journal, whether to send at once)"""


class SenderProcess:
    """Starts the sending process when it is needed, and restarts it if it died.

    Args:
        start_after_s: after the first journal; an urgent one starts it at once.
    """

    def __init__(self, start_after_s: float = START_AFTER_S) -> None:
        self.start_after_s = start_after_s
        self._followed: dict[tuple[str, str], None] = {}  # in order: parents first
        self._start_at: float | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def notify(self, uri: str, journal: Journal, *, urgent: bool = False) -> None:
        """Tell the process that a journal has records to send; returns at once."""
        place = (uri, str(journal.folder.resolve()))
        with self._lock:
            if self._start_at is None:
                self._start_at = time.monotonic() + self.start_after_s
            self._followed[place] = None
            if self.alive:
                self._write([(*place, urgent)])
            elif urgent or time.monotonic() >= self._start_at:
                self._start_at = time.monotonic() + RETRY_S  # should it die at once
                self._process = _start()
                self._write([(*followed, urgent) for followed in self._followed])

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def forget(self, uri: str, journal: Journal) -> None:
        """Stop following a journal."""
        with self._lock:
            self._followed.pop((uri, str(journal.folder.resolve())), None)

    def _write(self, requests: list[Request]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died just now; the next call starts another
            self._process.stdin.write("".join(json.dumps(one) + "\n" for one in requests))
            self._process.stdin.flush()


def _start() -> subprocess.Popen[str]:
    package = str(Path(__file__).parents[2])  # importable there as it is here
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        start_new_session=True,  # Ctrl-C does not reach it
    )


SENDER_PROCESS = SenderProcess()
"""The sender process that belongs to this process."""


class JournalSender:
    """Sends one journal.

    Args:
        uri: tracking store.
        folder: of the journal.
    """

    def __init__(self, uri: str, folder: str) -> None:
        self.uri, self.journal = uri, Journal(Path(folder))
        self._sender = Sender(uri, self.journal)
        self._lock: FileLock | None = None
        self._retry_at = 0.0

    def send_pending(self, urgent: bool) -> bool:
        """Send pending records; if the store is unavailable, at most every few seconds.

        Returns:
            Whether the run is over and the store has everything.
        """
        if not urgent and time.monotonic() < self._retry_at:
            return False
        if not self._acquire():
            return False
        try:
            self._sender.deliver()
        except Exception:  # noted in the journal's position; a store can fail in many ways
            self._retry_at = time.monotonic() + RETRY_S
            return False
        self._retry_at = 0.0
        return self._sender.closed and self.journal.complete(self.uri)

    def end(self) -> None:
        """Send the remaining records after the recorded process ended, and close its run."""
        self.send_pending(urgent=False)
        over = self._sender.closed or not self.journal.complete(self.uri)
        if self._lock is not None and not over:
            with contextlib.suppress(Exception):  # `msseg sync` or the next run will
                self._sender.update_state(dead=True)
        self.release()

    def release(self) -> None:
        """Release the lock of the journal."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _acquire(self) -> bool:
        """Take the lock of the journal; False while another process sends it."""
        if self._lock is None:
            lock = self.journal.sending_lock()
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            self._lock = lock
        return True


def main(requests: IO[str], parent: int) -> None:
    """Send journals on request until the recorded process has ended.

    Args:
        requests: a `Request` per line; it ends when the process that writes it ends.
        parent: id of that process (a fork of it may keep ``requests`` open).
    """
    received: queue.SimpleQueue[Request | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            received.put(json.loads(line))
        received.put(None)

    threading.Thread(target=listen, daemon=True).start()
    senders: dict[tuple[str, str], JournalSender] = {}
    reaped: set[str] = set()
    while os.getppid() == parent:
        try:
            request = received.get(timeout=1.0)
        except queue.Empty:
            continue
        if request is None:
            break
        uri, folder, urgent = request
        sender = senders.setdefault((uri, folder), JournalSender(uri, folder))
        if sender.send_pending(urgent):
            senders.pop((uri, folder)).release()
        if uri not in reaped and sender.journal.position(uri).run_id:
            reaped.add(uri)
            with contextlib.suppress(Exception):
                reap_dead_runs(uri)
    for sender in senders.values():
        sender.end()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(sys.stdin, int(sys.argv[1]))
