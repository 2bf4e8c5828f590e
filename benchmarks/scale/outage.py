"""Effects of an outage of the tracking server during a training: lost points and waiting times.

A real ``mlflow server`` on this computer is stopped and started again while ``Training.fit`` logs
every step of a small network. Counted are the points that the server has at the end, against the
steps made; compared are the times of the steps while it was there and while it was away. A second
training is ended by ``kill -9`` during an outage and brought in by ``msseg sync``, called twice.

    python -m benchmarks.scale.outage            60 s of outage, some three minutes
    python -m benchmarks.scale.outage --tiny     5 s
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn

from benchmarks import harness
from benchmarks.harness import ROOT, Row
from msseg_lightning.core.batch import Batch
from msseg_lightning.track.journal import Journal
from msseg_lightning.track.lightning_logger import TrackerLogger
from msseg_lightning.track.store import open_client
from msseg_lightning.track.tracker import Tracker
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import Hardware, Training

ENVIRONMENT = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class Same:
    """Loader that repeats the same batch."""

    def __init__(self) -> None:
        shape = (2, 1, 24, 24, 24)
        self.batch = Batch(
            torch.randn(2, 2, 24, 24, 24), torch.ones(shape), ("a", "b"), torch.ones(2)
        )

    def iterate(
        self, start_step: int, stop_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        for _ in range(start_step, stop_step):
            yield self.batch


class Clock(L.Callback):
    """Logs every step and notes how long it took, with the logging; ends when told by a file."""

    def __init__(self, tracker: Tracker, stop: Path) -> None:
        self.tracker, self.stop = tracker, stop
        self.steps: list[tuple[float, float, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.begin, self.cpu = time.perf_counter(), time.thread_time()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.tracker.log_metrics({"step/number": float(trainer.global_step)}, trainer.global_step)
        wall, cpu = time.perf_counter() - self.begin, time.thread_time() - self.cpu
        self.steps.append((time.time(), wall, cpu))
        trainer.should_stop = self.stop.exists()


def train(uri: str, folder: Path) -> None:
    """Train until ``folder/stop`` is there; what was timed goes to ``folder/steps.json``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 1, 1))
    task = Task(network, nn.BCEWithLogitsLoss(), functools.partial(torch.optim.SGD, lr=1e-3))
    tracker = Tracker.start(uri, "outage", folder.name, spool=folder / "track")
    clock = Clock(tracker, folder / "stop")
    steps = 1_000_000
    Training(steps, 2, steps).fit(
        task,
        LongitudinalDataModule(Same(), epoch_steps=steps),
        folder / "fit",
        Hardware("cpu", precision="32-true"),
        loggers=[TrackerLogger(tracker)],
        callbacks=[clock],
    )
    began = time.perf_counter()
    complete = tracker.finish()
    facts = {"steps": clock.steps, "complete": complete, "end_s": time.perf_counter() - began}
    (folder / "steps.json").write_text(json.dumps(facts), encoding="utf-8")


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """MLflow's server while the block runs; answers on entry, and is gone on exit."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
        )
    try:
        wait_for(lambda: answers(f"{uri}/health"), 180)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2) as answer:
        return answer.status == 200
    return False


def wait_for(found: Any, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not found():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit_s:.0f} s")
        time.sleep(0.1)


@contextlib.contextmanager
def training(uri: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.outage", "--train", uri, str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def recorded(uri: str, journal: Journal) -> list[int]:
    """Steps that the server has recorded, in the order of its response."""
    run_id = journal.position(uri).run_id
    history = open_client(uri).get_metric_history(run_id, "step/number")
    return [point.step for point in history]


def sync(uri: str, folder: Path) -> str:
    command = [sys.executable, "-m", "msseg_lightning.cli.main", "sync", "--uri", uri, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def outage(folder: Path, up_s: float, away_s: float) -> list[Row]:
    """Rows of a training that continues during an outage."""
    port, run = harness.free_port(), folder / "run"
    journal = Journal(run / "track")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        uri = first.enter_context(server(folder, port))
        process = stack.enter_context(training(uri, run))
        wait_for(lambda: journal.position(uri).run_id, 180)
        time.sleep(up_s)
        first.close()
        gone = time.time()
        time.sleep(away_s)
        back = time.time()
        stack.enter_context(server(folder, port))
        time.sleep(up_s)
        (run / "stop").touch()
        process.wait(180)
        facts = json.loads((run / "steps.json").read_text())
        late = "" if facts["complete"] else f"; by msseg sync: {sync(uri, run).strip()}"
        steps = recorded(uri, journal)
    made = len(facts["steps"])
    away = [step for step in facts["steps"] if gone < step[0] - step[1] and step[0] < back]
    there = [step for step in facts["steps"] if step not in away]
    wall = [statistics.median(step[1] for step in part) * 1e3 for part in (there, away)]
    cpu = [statistics.median(step[2] for step in part) * 1e3 for part in (there, away)]
    note = f"{made} steps, {len(away)} of them in {back - gone:.0f} s without the server{late}"
    return [
        Row.at_most("points lost", made - len(set(steps)), 0, "points", note=note),
        Row.at_most("points recorded twice", len(steps) - len(set(steps)), 0, "points"),
        Row.at_most(
            "step while the server is away, CPU time",
            cpu[1] / cpu[0],
            1.1,
            "of a step",
            note=f"{cpu[1]:.2f} to {cpu[0]:.2f} ms; wall {wall[1]:.2f} to {wall[0]:.2f} ms",
        ),
        Row.at_most(
            "end of the run until all is recorded", facts["end_s"], 60, "s", note="server back"
        ),
    ]


def killed(folder: Path, up_s: float) -> list[Row]:
    """Rows of a training that is killed during an outage."""
    port, run = harness.free_port(), folder / "killed"
    journal = Journal(run / "track")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        uri = first.enter_context(server(folder, port))
        process = stack.enter_context(training(uri, run))
        wait_for(lambda: journal.position(uri).run_id, 180)
        first.close()
        time.sleep(up_s)
        process.kill()
        process.wait()
        noted = [
            point[3]
            for record, _ in journal.pending(0)
            for point in record.get("points", [])
            if point[0] == "step/number"
        ]
        with journal.sending_lock():  # free when the sender process has given up
            unsent = sum(1 for _ in journal.pending(journal.position(uri).sent))
        stack.enter_context(server(folder, port))
        said = [sync(uri, run), sync(uri, run)]
        steps = recorded(uri, journal)
        status = open_client(uri).get_run(journal.position(uri).run_id).info.status
    note = f"{len(noted)} points, {unsent} unsent notes; run {status}; {said[1].strip()}"
    return [
        Row.at_most(
            "kill -9 in the outage, msseg sync: points lost",
            len(set(noted) - set(steps)),
            0,
            "points",
            note=note,
        ),
        Row.at_most(
            "msseg sync twice: points recorded twice", len(steps) - len(set(steps)), 0, "points"
        ),
    ]


def run(rounds: int = 1, tiny: bool = False) -> dict[str, Any]:
    """Measure; see the module."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="outage-") as name:
        folder = Path(name)
        up_s, away_s = (3.0, 5.0) if tiny else (30.0, 60.0)
        rows = [*outage(folder, up_s, away_s), *killed(folder, min(up_s, 10.0))]
    return {
        "benchmark": "outage",
        "rounds": rounds,
        "tiny": tiny,
        "took_s": time.perf_counter() - began,
        "rows": [vars(row) for row in rows],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], Path(sys.argv[3]))
    else:
        harness.main(run, rounds=1)
