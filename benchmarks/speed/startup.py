"""How long a person waits: help, list, the first training step, and what the trainer adds per step.

Wall seconds include the machine's other work, CPU seconds hardly do; limits are compared with the
CPU seconds where the machine was busy (the note tells both). The first step is that of the CPU-size
``pre_unet`` on a simulated cohort prepared beforehand: start of Python, configuration, split,
tracking database, opening the cohort, first patches, forward, backward, update. The trainer's share
is ``Training.fit`` on a network of nothing against a bare loop over the same ``Task``.
"""

from __future__ import annotations

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
FIRST_STEP = re.compile(r"first step ([\d.]+) s after .* \(([\d.]+) CPU s\)")


class Same:
    """The same batch for ever."""

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
    bare = f"bare loop {per_step['bare']:.2f}, fit {per_step['trainer']:.2f}"
    return [
        Row.at_most("trainer's overhead per step", trainer, 1.0, "CPU ms", note=bare),
        Row.at_most("overhead of profile=true per step", profile, 1.0, "CPU ms"),
    ]


def command_row(name: str, words: list[str], rounds: int) -> Row:
    times = [harness.command_seconds([*MSSEG, *words]) for _ in range(rounds)]
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    return Row.at_most(name, cpu, 0.5, "CPU s", note=f"wall {wall:.2f} s")


def first_step(folder: Path, rounds: int) -> Row:
    """Train one step on a prepared cohort, several times; the first run prepares and is dropped."""
    name, most = "first training step after the command", 8.0
    environment = {**os.environ, "MSSEG_LOG": "INFO"}
    cohort = folder / "cohort"
    say = functools.partial(
        subprocess.run, capture_output=True, text=True, env=environment, check=False
    )
    made = say([*MSSEG, "simulate", str(cohort), "preset=tiny"])
    if made.returncode:
        return Row.at_most(name, None, most, "CPU s", note=last_line(made.stderr))
    times = []
    for turn in range(rounds + 1):
        command = [
            *(*MSSEG, "train", "pre_unet", f"read.root={cohort}", "size=cpu"),
            *("split=file", f"split.path={cohort / 'split.json'}", "train.steps=1000"),
            *(f"paths.runs={folder / f'runs{turn}'}", f"paths.cache={folder / 'cache'}"),
            *(f"track.folder={folder / 'mlruns'}",),
        ]
        found, text = said(command, environment)
        if found is None:
            return Row.at_most(name, None, most, "CPU s", note=last_line(text))
        times.append((float(found[1]), float(found[2])))
    wall, cpu = (statistics.median(column) for column in zip(*times[1:], strict=True))
    note = f"wall {wall:.1f} s; with preparation {times[0][0]:.1f} s"
    return Row.at_most(name, cpu, most, "CPU s", note=note)


def said(command: list[str], environment: dict[str, str]) -> tuple[re.Match[str] | None, str]:
    """The line of the first step, after which the training is stopped; and all that was said."""
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
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
    rows = [
        command_row("msseg --help", ["--help"], rounds),
        command_row("msseg list", ["list"], rounds),
        *overhead(rounds, 20 if tiny else 100),
    ]
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        rows.append(first_step(Path(name), 1 if tiny else 3))
    return {
        "benchmark": "startup",
        "rounds": rounds,
        "tiny": tiny,
        "took_s": time.perf_counter() - began,
        "rows": [vars(row) for row in rows],
    }


if __name__ == "__main__":
    harness.main(run, rounds=5)
