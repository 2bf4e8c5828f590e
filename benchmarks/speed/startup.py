"""Start-up times: help, list, first training step, prediction of one pair; overhead of the trainer.

Seconds differ from one processor to another, so every limit is a ratio: commands to a bare
``import torch, lightning`` in a process of its own, the trainer's share to a bare loop over the
same ``Task``, both measured in the same run. CPU seconds are compared; notes tell wall seconds.

The first step is that of the CPU-size ``pre_unet`` on a simulated cohort: start of Python,
configuration, split, tracking database, first patches, forward, backward, update; cold with the
preparation of every pair, warm without. The prediction starts from two files and ends with a mask.
``MSSEG_BENCH_BASE=FOLDER`` measures the commands of another checkout beside those of this one.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import harness
from benchmarks.harness import Row
from msseg_lightning.core.batch import Batch
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import Hardware, Training

MSSEG = (sys.executable, "-m", "msseg_lightning.cli.main")
BASE = "MSSEG_BENCH_BASE"
"""Environment variable: another checkout, whose commands are measured in the same run."""
FIRST_STEP = re.compile(r"first step ([\d.]+) s after .* \(([\d.]+) CPU s\)")


class Same:
    """Loader that repeats the same batch."""

    def __init__(self) -> None:
        self.batch = Batch(
            torch.randn(2, 2, 2, 2, 2), torch.ones(2, 1, 2, 2, 2), ("a", "b"), torch.ones(2)
        )

    def iterate(
        self, start_step: int, stop_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        for _ in range(start_step, stop_step):
            yield self.batch


def nothing() -> Task:
    network = nn.Conv3d(2, 1, 1)
    return Task(network, nn.BCEWithLogitsLoss(), functools.partial(torch.optim.SGD, lr=1e-3))


def bare_loop(steps: int) -> None:
    task, batch = nothing(), Same().batch
    optimizer = task.configure_optimizers()
    for _ in range(steps):
        optimizer.zero_grad()
        task.step(batch).loss.backward()
        optimizer.step()


def trained(steps: int, profile: bool = False) -> None:
    data = LongitudinalDataModule(Same(), epoch_steps=steps)
    hardware = Hardware("cpu", precision="32-true", profile=profile)
    with tempfile.TemporaryDirectory() as folder:
        Training(steps, 2, steps).fit(nothing(), data, Path(folder), hardware)


def overhead(rounds: int, steps: int) -> list[Row]:
    """CPU ms the trainer adds to a step, without and with the profile."""
    for name in ("lightning", "lightning.pytorch", "msseg_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    loops = {
        "bare": bare_loop,
        "trainer": trained,
        "profiled": functools.partial(trained, profile=True),
    }
    # two lengths: their difference is free of what a fit costs once
    found = harness.alternate(
        {
            f"{name} {length}": functools.partial(loop, length)
            for name, loop in loops.items()
            for length in (steps, 5 * steps)
        },
        rounds,
    )
    per_step = {
        name: (found[f"{name} {5 * steps}"].cpu_s - found[f"{name} {steps}"].cpu_s)
        / (4 * steps)
        * 1e3
        for name in loops
    }
    trainer = per_step["trainer"] - per_step["bare"]
    profile = per_step["profiled"] - per_step["trainer"]
    note = f"bare loop over the same task; fit {per_step['trainer']:.2f}"
    bare = per_step["bare"]
    return [
        Row.at_most_times("trainer's overhead per step", trainer, bare, 4.0, "CPU ms", note),
        Row.at_most_times(
            "overhead of profile=true per step", profile, bare, 4.0, "CPU ms", "the same loop"
        ),
    ]


BARE_START = (sys.executable, "-c", "pass")
BARE_IMPORT = (sys.executable, "-c", "import torch, lightning")
PAIR = "003"
"""A held-out pair of the simulated cohort."""


@dataclasses.dataclass(frozen=True)
class Peers:
    """CPU seconds of bare commands, measured in the same run.

    Args:
        start: of ``python -c pass``.
        imported: of ``import torch, lightning``.
    """

    start: float
    imported: float

    @classmethod
    def measured(cls, rounds: int) -> Peers:
        """Medians; the first import, which may have to read files from the disk, is dropped."""
        times = [
            [harness.command_seconds(command)[1] for command in (BARE_START, BARE_IMPORT)]
            for _ in range(rounds + 1)
        ]
        start, imported = (statistics.median(column) for column in zip(*times[1:], strict=True))
        return cls(start, imported)


def command_row(name: str, words: list[str], peers: Peers, rounds: int) -> Row:
    """A command that needs no torch: a share of its bare import."""
    times = [harness.command_seconds([*MSSEG, *words]) for _ in range(rounds)]
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    note = f"import torch, lightning; wall {wall:.2f} s, python alone {peers.start:.2f} CPU s"
    return Row.at_most_times(name, cpu, peers.imported, 0.1, "CPU s", note)


def first_steps(folder: Path, package: Path, peers: Peers, rounds: int) -> list[Row]:
    """From the command to the first step and to one predicted pair, over a bare import.

    Args:
        folder: with the simulated ``cohort``; runs and caches are made below it.
        package: checkout whose commands are measured.
        peers: of the same run.
        rounds: how often a warm start is measured. Cold is the first: nothing is prepared yet.
    """
    environment = {**os.environ, "MSSEG_LOG": "INFO", "PYTHONPATH": str(package)}
    cohort, cold, warm = folder / "cohort", None, []
    names = ("first training step, cold", "first training step, warm", "one pair predicted")
    most = (4.0, 2.0, None)  # a prediction is mostly the network's own work
    note = f"import torch, lightning; commit {harness.commit(package)}"
    for turn in range(rounds + 1):
        command = training(cohort, folder, f"runs{turn}", "train.steps=1000")
        found, text = said(command, environment, folder)
        if found is None:
            return [missing(name, last_line(text)) for name in names]
        seconds = float(found[1]), float(found[2])
        cold, warm = (seconds, warm) if cold is None else (cold, [*warm, seconds])
    assert cold is not None
    rows = [
        Row.at_most_times(name, cpu, peers.imported, limit, "CPU s", f"{note}; wall {wall:.1f} s")
        for name, limit, (wall, cpu) in zip(
            names,
            most,
            (cold, [statistics.median(column) for column in zip(*warm, strict=True)]),
            strict=False,
        )
    ]
    model = training(cohort, folder, "trained", "train.steps=2", "train.validate_every=2")
    try:
        harness.command_seconds(model, env=environment, cwd=folder)
        (scores,) = (folder / "trained" / "pre_unet").glob("*/scores.json")
        times = [
            harness.command_seconds(
                prediction(cohort, folder, scores.parent, turn), env=environment, cwd=folder
            )
            for turn in range(rounds)
        ]
    except subprocess.CalledProcessError as error:
        return [*rows, missing(names[2], last_line(error.stderr.decode()))]
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    note = f"{note}; wall {wall:.1f} s, preparation included"
    return [*rows, Row.at_most_times(names[2], cpu, peers.imported, most[2], "CPU s", note)]


def missing(name: str, why: str) -> Row:
    """A row that was not measured."""
    return Row(name, None, None, None, "", "CPU s", None, why)


def training(cohort: Path, folder: Path, runs: str, *settings: str) -> list[str]:
    """The command of a training that shares its cache with the others of the folder."""
    words = ["train", "pre_unet", f"read.root={cohort}", "size=cpu", *settings]
    words += ["split=file", f"split.path={cohort / 'split.json'}"]
    words += [f"paths.runs={folder / runs}", f"paths.cache={folder / 'cache'}"]
    return [*MSSEG, *words, f"track.folder={folder / 'mlruns'}"]


def prediction(cohort: Path, folder: Path, run: Path, turn: int) -> list[str]:
    """The command that predicts a pair of which nothing is prepared."""
    scans = [cohort / PAIR / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    words = ["predict", str(run), "-t1", str(scans[0]), "-t2", str(scans[1])]
    words += ["-o", str(folder / f"new{turn}.nii.gz")]
    return [*MSSEG, *words, f"paths.cache={folder / f'another_cache{turn}'}"]


def said(
    command: list[str], environment: dict[str, str], folder: Path
) -> tuple[re.Match[str] | None, str]:
    """Log line of the first step, after which the training is stopped, and all output."""
    lines = []
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if found := FIRST_STEP.search(line):
                process.kill()
                return found, "".join(lines)
    return None, "".join(lines)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:160]


def run(rounds: int = 5, tiny: bool = False) -> dict[str, Any]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    peers = Peers.measured(rounds)
    rows = [
        command_row("msseg --help", ["--help"], peers, rounds),
        command_row("msseg list", ["list"], peers, rounds),
        *overhead(rounds, 20 if tiny else 100),
    ]
    other = os.environ.get(BASE)
    packages = [harness.ROOT, *([Path(other).resolve()] if other else [])]
    for package in packages:
        with tempfile.TemporaryDirectory(prefix="startup-") as name:
            folder = Path(name)
            words = ["simulate", str(folder / "cohort"), "preset=tiny"]
            environment = {**os.environ, "PYTHONPATH": str(package)}
            harness.command_seconds([*MSSEG, *words], env=environment, cwd=folder)
            rows += first_steps(folder, package, peers, 1 if tiny else 3)
    return {
        "benchmark": "startup",
        "rounds": rounds,
        "tiny": tiny,
        "took_s": time.perf_counter() - began,
        "rows": [vars(row) for row in rows],
    }


if __name__ == "__main__":
    harness.main(run, rounds=5)
