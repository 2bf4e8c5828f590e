"""Two processes against one: curves, patches, subjects, tracked runs; killed, preempted, resumed.

Everything goes through ``msseg train`` on a tiny cohort, on the CPU, with gloo. In the processes
that train, loader and task also note what they are asked for.

    python -m benchmarks.scale.distributed            some ten minutes
    python -m benchmarks.scale.distributed FOLDER     keep the runs there
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import ROOT
from msseg_lightning.cli.main import main as msseg_main
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.train.curves import read_curves
from msseg_lightning.train.task import Task

NOTES, MARK = "MSSEG_BENCHMARK_NOTES", "MSSEG_BENCHMARK_MARK"
STEPS, EVERY, BATCH = 12, 4, 4
TWO = ("train.batch_size=2", "trainer.devices=2", "trainer.strategy=ddp")
ONE = (f"train.batch_size={BATCH}",)
LOG: list[str] = []


# --------------------------------------------------------------- in the processes that train: notes
make_element, validate_pair = PatchLoader.make, Task.validate


def noted_make(self: PatchLoader, step: int, element: int, images: Any, labels: Any) -> str:
    """Record step, number, process and bytes of every element."""
    name = make_element(self, step, element, images, labels)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    note("patches", f"{step} {element} {os.getpid()} {digest}")
    return name


def noted_validate(self: Task, subject: PreparedSubject) -> dict[str, float]:
    """Record step, pair and process of every validation."""
    note("volumes", f"{self.global_step} {subject.id} {os.getpid()}")
    return validate_pair(self, subject)


if NOTES in os.environ:  # also where a started process imports the main module of its starter
    PatchLoader.make, Task.validate = noted_make, noted_validate  # type: ignore[method-assign]


def note(file: str, line: str) -> None:
    descriptor = os.open(Path(os.environ[NOTES]) / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted(folder: Path, file: str) -> list[list[str]]:
    path = folder / file
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# ----------------------------------------------------------------------------------------- commands
def words(cohort: Path, *more: str) -> list[str]:
    return [
        *("train", "pre_unet", f"read.root={cohort}", "split=file"),
        *(f"split.path={cohort / 'three.json'}", "size=tiny", "data.workers=1"),
        *(f"train.steps={STEPS}", f"train.validate_every={EVERY}", "train.checkpoint_minutes=0"),
        *("trainer.accelerator=cpu", "trainer.precision=32-true"),
        *more,
    ]


@dataclasses.dataclass
class Job:
    """A command in a folder of its own, with everything it starts."""

    folder: Path
    command: list[str]
    variables: dict[str, str] = dataclasses.field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        notes = self.folder / "notes"
        notes.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            **{NOTES: str(notes), MARK: str(self.folder), "OMP_NUM_THREADS": "1"},
            "PYTHONPATH": str(ROOT),
            **self.variables,
        }
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                self.command, cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def run(self) -> int:
        return self.start().wait()

    def alive(self) -> list[int]:
        """Processes that this job started and that still run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = process.environ().get(MARK) == str(self.folder)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def rank_of(self, first: int) -> int:
        """The process whose elements start at this number."""
        rows = noted(self.folder / "notes", "patches")
        return next(
            int(process) for _, number, process, _ in reversed(rows) if int(number) == first
        )

    def wait_for_step(self, step: int, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if any(int(row[0]) >= step for row in noted(self.folder / "notes", "patches")):
                return
            time.sleep(0.05)
        raise RuntimeError(f"ended before step {step}; see {self.folder / 'log.txt'}")

    def curves(self) -> list[tuple[int, str, float]]:
        (file,) = self.folder.glob("runs/*/*/fit/curves.csv")
        return [(row["step"], row["name"], row["value"]) for row in read_curves(file)]


def msseg(*arguments: str) -> list[str]:
    """The command ``msseg``, started from this file so that its events are recorded."""
    return [sys.executable, "-m", "benchmarks.scale.distributed", *arguments]


def difference(expected: Job, found: Job) -> float:
    """Largest relative difference of a value; infinite where steps or names differ."""
    one, other = expected.curves(), found.curves()
    if [row[:2] for row in one] != [row[:2] for row in other]:
        return float("inf")
    return max(abs(a[2] - b[2]) / max(abs(a[2]), 1e-12) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------- proofs
def prove_equal(expected: Job, job: Job, name: str) -> None:
    code = job.run()
    patches, alone = (noted(one.folder / "notes", "patches") for one in (job, expected))
    used = {(int(step), int(number)): digest for step, number, _, digest in patches}
    same = used == {(int(step), int(number)): digest for step, number, _, digest in alone}
    times = Counter((step, number) for step, number, *_ in patches)
    volumes = noted(job.folder / "notes", "volumes")
    pairs = Counter((step, pair) for step, pair, _ in volumes)
    say(name, "exit code", code)
    say(name, "largest relative difference of a curve", f"{difference(expected, job):.1e}")
    say(name, "patches, each drawn once", f"{len(times)}, {set(times.values()) == {1}}")
    say(name, "equal bytes to those of one process", same)
    say(
        name, "validations, each pair once per epoch", f"{len(pairs)}, {set(pairs.values()) == {1}}"
    )
    say(name, "processes that validated", len({process for *_, process in volumes}))


def prove_tracked(job: Job) -> None:
    with sqlite3.connect(job.folder / "mlruns" / "mlflow.db") as store:
        levels = [row[0] for row in store.execute("select value from tags where key = 'level'")]
        (points,) = store.execute(
            "select count(*) from metrics where key = 'train/loss' and is_nan = 0"
        ).fetchone()
    say("two processes", "MLflow runs of the job (and of its experiment)", dict(Counter(levels)))
    say("two processes", "points of train/loss in MLflow", points)


def prove_killed(expected: Job, job: Job, name: str, first: int) -> None:
    process = job.start()
    job.wait_for_step(6, process)
    os.kill(job.rank_of(first), signal.SIGKILL)
    start = time.monotonic()
    code = process.wait(timeout=120)
    ended = time.monotonic() - start
    while job.alive() and time.monotonic() - start < 120:
        time.sleep(0.1)
    say(name, "exit code, seconds to the end", f"{code}, {ended:.1f}")
    say(name, "seconds until no process was left", f"{time.monotonic() - start:.1f}")
    say(name, "processes left", len(job.alive()))
    say(name, "the same command again", job.run())
    say(name, "largest relative difference of the curve", f"{difference(expected, job):.1e}")


def prove_preempted(expected: Job, job: Job, name: str, first: int) -> None:
    process = job.start()
    job.wait_for_step(6, process)
    os.kill(job.rank_of(first), signal.SIGUSR1)
    start = time.monotonic()
    code = process.wait(timeout=120)
    say(name, "exit code, seconds to the end", f"{code}, {time.monotonic() - start:.1f}")
    said = (job.folder / "log.txt").read_text()
    step = int(said.rpartition("after step ")[2].partition(";")[0])
    before = len(noted(job.folder / "notes", "patches"))
    say(name, "the same command again", job.run())
    after = noted(job.folder / "notes", "patches")[before:]
    say(name, "stopped after step, went on with step", f"{step}, {min(int(r[0]) for r in after)}")
    say(name, "largest relative difference of the curve", f"{difference(expected, job):.1e}")


def prove_srun(expected: Job, folder: Path, command: list[str]) -> None:
    """Two plain processes with the variables that srun gives."""
    shared = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "4242"}
    shared |= {"SLURM_JOB_NAME": "msseg", "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "SLURM_NTASKS_PER_NODE": "2"}
    jobs = [
        Job(folder, command, {**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(2)
    ]
    codes = [process.wait(timeout=600) for process in [job.start() for job in jobs]]
    say("srun stand-in", "exit codes", codes)
    say(
        "srun stand-in",
        "largest relative difference of a curve",
        f"{difference(expected, jobs[0]):.1e}",
    )


def say(part: str, what: str, value: object) -> None:
    LOG.append(f"| {part} | {what} | {value} |")
    sys.stdout.write(LOG[-1] + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    if len(sys.argv) > 1:
        yield Path(sys.argv[1]).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> None:
    with workplace() as folder:
        cohort = folder / "cohort"
        make = msseg("simulate", str(cohort), "preset=tiny", "train=4", "test=2")
        subprocess.run(make, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        parts = {"train": ["001", "002"], "val": ["003", "004", "005"], "test": ["006"]}
        (cohort / "three.json").write_text(json.dumps(parts))

        def job(name: str, *more: str, start: Callable[..., list[str]] = msseg) -> Job:
            return Job(folder / name, start(*words(cohort, *more)))

        say("part", "what", "found")
        say("---", "---", "---")
        alone = job("one", *ONE, "track=off")
        say("one process", "exit code", alone.run())
        both = job("two", *TWO)
        prove_equal(alone, both, "two processes")
        prove_tracked(both)
        summed = job("accumulated", "train.batch_size=2", "train.accumulate=2", "track=off")
        prove_equal(alone, summed, "one process, accumulate=2")
        prove_killed(alone, job("killed", *TWO, "track=off"), "kill -9 of rank 1", 2)
        prove_killed(alone, job("led", *TWO, "track=off"), "kill -9 of rank 0", 0)
        prove_preempted(alone, job("warned", *TWO, "track=off"), "SIGUSR1 to rank 0", 0)
        prove_preempted(alone, job("told", *TWO, "track=off"), "SIGUSR1 to rank 1", 2)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc-per-node=2", "-m", "benchmarks.scale.distributed"]
        run = job("torchrun", *TWO, "track=off", start=lambda *given: [*torchrun, *given])
        prove_equal(alone, run, "torchrun")
        killed = job("torchrun-killed", *TWO, "track=off", start=lambda *a: [*torchrun, *a])
        prove_killed(alone, killed, "torchrun, kill -9 of rank 1", 2)
        prove_srun(alone, folder / "srun", msseg(*words(cohort, *TWO, "track=off")))


if __name__ == "__main__":
    if sys.argv[1:2] in (["train"], ["simulate"]):
        sys.exit(msseg_main())
    main()
