"""Timing of contenders, rows with limits, and records of measurements, for all benchmarks.

Contenders run in turn (A B C A B C ...) in one process and one thread, and ratios of CPU seconds
are compared: a busy neighbour then slows all alike. A row holds or falls short of its limit; one
that could not be measured says why and counts as neither.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import gc
import importlib.metadata
import json
import logging
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / ".peers"
PACKAGES = (
    *("torch", "lightning", "numpy", "scipy", "numba", "monai", "torchio", "nibabel", "isal"),
    "deflate",
    *("SimpleITK", "nnunetv2", "batchgeneratorsv2", "dynamic-network-architectures", "blosc2"),
    *("panoptica", "connected-components-3d"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: what is compared.
        ours: our figure, in ``unit``; None where it was not measured.
        peer: the other figure, in ``unit``; None where there is none.
        ratio: peer over ours, or whatever ``limit`` speaks of.
        limit: ``>= 3 x`` or ``<= 15 ms``; empty where nothing is promised.
        unit: of both figures.
        holds: whether the limit is kept; None where there is no limit or no measurement.
        note: who the peer is, spread, or why there is no figure.
    """

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    limit: str
    unit: str
    holds: bool | None
    note: str = ""

    @classmethod
    def faster(
        cls,
        name: str,
        ours: float | None,
        peer: float | None,
        least: float | None,
        unit: str = "CPU ms",
        note: str = "",
    ) -> Row:
        """The peer must take at least ``least`` times as long."""
        ratio = None if ours is None or peer is None else peer / ours
        limit = "" if least is None else f">= {least:g} x"
        holds = None if ratio is None or least is None else ratio >= least
        return cls(name, ours, peer, ratio, limit, unit, holds, note)

    @classmethod
    def at_most(cls, name: str, ours: float | None, most: float, unit: str, note: str = "") -> Row:
        """Our figure must not exceed ``most``."""
        holds = None if ours is None else ours <= most
        return cls(name, ours, None, None, f"<= {most:g} {unit}", unit, holds, note)

    @classmethod
    def at_most_times(
        cls,
        name: str,
        ours: float | None,
        peer: float | None,
        most: float | None,
        unit: str,
        note: str = "",
    ) -> Row:
        """Our figure must not exceed ``most`` times the peer's; the ratio is ours over the peer's.

        For limits that hold on any processor: the peer is bare work, measured in the same run.
        """
        ratio = None if ours is None or peer is None else ours / peer
        limit = "" if most is None else f"<= {most:g} x"
        holds = None if ratio is None or most is None else ratio <= most
        return cls(name, ours, peer, ratio, limit, unit, holds, note)

    @property
    def verdict(self) -> str:
        """The verdict as one word."""
        if self.holds is None:
            return "not measured" if self.limit else ""
        return "holds" if self.holds else "FALLS SHORT"


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians of one contender.

    Args:
        cpu_s: CPU seconds of the process.
        wall_s: wall seconds.
        spread: largest minus smallest CPU time over the median.
        rounds: how many were counted.
    """

    cpu_s: float
    wall_s: float
    spread: float
    rounds: int


def alternate(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    units: int = 1,
    warm_up: int = 1,
) -> dict[str, Timing]:
    """Run contenders in turn; times are divided by ``units``, the items one call makes.

    Those that are ``Apart`` run, still in turn, in their own processes.
    """
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + warm_up):
        for name, contender in contenders.items():
            cpu_s, wall_s = contender.timed() if isinstance(contender, Apart) else timed(contender)
            if turn >= warm_up:
                cpu[name].append(cpu_s / units)
                wall[name].append(wall_s / units)
    return {
        name: Timing(
            statistics.median(cpu[name]),
            statistics.median(wall[name]),
            (max(cpu[name]) - min(cpu[name])) / max(statistics.median(cpu[name]), 1e-12),
            rounds,
        )
        for name in contenders
    }


def timed(contender: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds of one call in this process."""
    gc.collect()
    began, began_cpu = time.perf_counter(), time.process_time()
    answer = contender()
    ended_cpu, ended = time.process_time(), time.perf_counter()
    del answer
    return ended_cpu - began_cpu, ended - began


class Apart:
    """A contender in a process of its own.

    Args:
        build: makes the contender, there; can be pickled. ``ready`` waits for it.
    """

    def __init__(self, build: Callable[[], Callable[[], Any]]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until the contender is built.

        Raises:
            ImportError: it needs what is not installed.
        """
        self._answer()

    def __call__(self) -> Any:
        """Result of one call."""
        self._pipe.send("call")
        return self._answer()

    def timed(self) -> tuple[float, float]:
        """CPU and wall seconds of one call, measured there."""
        self._pipe.send("time")
        cpu_s, wall_s = self._answer()
        return cpu_s, wall_s

    def _answer(self) -> Any:
        """Receive a result; raises the error of the other process."""
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Any, build: Callable[[], Callable[[], Any]]) -> None:
    """Serve calls until the connection is closed."""
    try:
        contender = build()
        pipe.send(None)
        while True:
            pipe.send(timed(contender) if pipe.recv() == "time" else contender())
    except EOFError:
        return
    except Exception as error:
        pipe.send(error)


def given_back() -> None:
    """Give freed memory back to the system, which glibc otherwise keeps resident (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak_mib(function: Callable[[], Any]) -> float:
    """MiB a call adds to what is resident, measured in a forked child.

    What earlier contenders freed is first given back to the system, else it would hide a need. One
    thread only: forking after a thread pool has started can hang.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            given_back()
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := present
            before = _high_water_kib()
            function()
            os.write(writer, f"{(_high_water_kib() - before) / 1024}".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return float(answer or "nan")


def _high_water_kib() -> int:
    """Peak memory of this process since its start or since the last reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def command_seconds(command: Sequence[str], **options: Any) -> tuple[float, float]:
    """Wall and CPU seconds of a command with all its children.

    Raises:
        CalledProcessError: it failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, **options)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def record() -> dict[str, Any]:
    """Date, commit, machine and versions of a measurement."""
    places = [*sys.path, str(PEERS)]  # what lies first is what is imported
    found: dict[str, importlib.metadata.Distribution] = {}
    for entry in importlib.metadata.distributions(path=places):
        found.setdefault(entry.metadata["Name"], entry)
    versions = {name: found[name].version if name in found else None for name in PACKAGES}
    return {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "commit": commit(),
        "changed": bool(_git("status", "--porcelain", "--", "msseg_lightning", "benchmarks")),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load": round(os.getloadavg()[0], 1),
            "system": platform.platform(terse=True),
        },
        "python": platform.python_version(),
        "versions": versions,
    }


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commit(checkout: Path = ROOT) -> str:
    """Short name of the commit of a checkout."""
    return _git("rev-parse", "--short", "HEAD", checkout=checkout)


def _git(*arguments: str, checkout: Path = ROOT) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def table(rows: Sequence[Row]) -> str:
    """The rows as a text table."""
    heads = ("", "ours", "peer", "ratio", "limit", "", "")
    cells = [
        (
            row.name,
            _number(row.ours, row.unit),
            _number(row.peer, row.unit),
            "-" if row.ratio is None else f"{row.ratio:.2f} x",
            row.limit,
            row.verdict,
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[place]) for line in [heads, *cells]) for place in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 1 <= place <= 3 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [heads, *cells]
    )


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.4g} {unit}"


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write a result as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main(run: Callable[[int, bool], dict[str, Any]], rounds: int) -> None:
    """Command line of one benchmark: ``--rounds N --tiny --json FILE``.

    Args:
        run: ``(rounds, tiny) -> result`` with ``rows`` (``Row`` as dictionaries) and ``timings``.
        rounds: by default.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds, to see it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.path.append(str(PEERS))
    result = run(options.rounds, options.tiny)
    for name, timing in result.get("timings", {}).items():
        log.info(
            "  %-52s %10.2f CPU ms %10.2f wall ms  spread %3.0f %%",
            *(name, timing["cpu_s"] * 1e3, timing["wall_s"] * 1e3, timing["spread"] * 100),
        )
    for entry in result.get("absent", []):
        log.info("  %-52s absent: %s", entry["name"], entry["reason"])
    sys.stdout.write(table([Row(**row) for row in result["rows"]]) + "\n")
    if options.json:
        write_result(result, options.json)
