"""Train systems under the same folds, seeds and budget, with one leaderboard of all."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msseg_lightning.core.problem import ExitCode, MssegError

if TYPE_CHECKING:
    from msseg_lightning.run.benchmark.plan import Benchmark

EXAMPLES = """\
examples
  msseg benchmark small systems=all size=cpu read.root=cohorts/small split=file \\
        split.path=cohorts/small/split.json budget.minutes=4
  msseg benchmark mine systems=[pre_unet,ohem_unet] read.root=/data/msseg2 fold=all seed=0,1
  msseg benchmark small                        continues it; in another shell it joins
  msseg benchmark small --limit-minutes 60     works for an hour; the same line goes on
  msseg benchmark small systems=[pre_unet] seed=1,2 ...    the same settings: adds these runs
  msseg benchmark --status                     lists the benchmarks
  msseg benchmark small --status               what is done, running, failed, waiting
  msseg benchmark small --export               writes leaderboard and tables now

Every system is trained with the settings of the line, each run in a process of its own; any number
of processes share a benchmark. A system that fails is listed with its reason and the others go on;
the command given again tries it once more. `fold=all` are all folds of the split.

budget.minutes=N are processor minutes of training, all threads together (on a GPU minutes of the
clock): a system with several networks (stages, members, folds) divides them by their shares of the
steps, learning-rate schedules follow the minutes, and steps only give the length of the schedule.
budget.steps=N are optimiser steps, divided likewise. Systems without training by gradients run as
they are. Without a budget each trains as long as its settings say.

Files are in leaderboards/NAME/ (paths.leaderboards=FOLDER): benchmark.json, state/, logs/, runs/,
runs.csv, leaderboard.html, .md, .csv, .tex, written anew after each run. `msseg report RUN` writes
the report of a run.
exit codes: 0 complete, 2 wrong settings, 9 some runs failed, 75 --limit-minutes are over
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Run, continue, join or inspect a benchmark."""
    parser = argparse.ArgumentParser(
        prog="msseg benchmark",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the benchmark")
    parser.add_argument(
        "words", nargs="*", default=[], metavar="key=value", help="see the examples"
    )
    parser.add_argument("--status", action="store_true", help="print the states and leave")
    parser.add_argument(
        "--export", action="store_true", help="write leaderboard and tables and leave"
    )
    parser.add_argument(
        "--limit-minutes", type=float, metavar="N", help="stop after so many minutes of the clock"
    )
    parser.add_argument(
        "--one", metavar="RUN", help="train one run in this process: SYSTEM-foldK-seedS"
    )
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.run.benchmark.plan import (
        FOLDER,
        Benchmark,
        BenchmarkArguments,
        all_benchmarks,
        find_job,
    )

    words = list(options.words)
    if options.name is not None and "=" in options.name:
        words, options.name = [options.name, *words], None
    if options.name is None:
        if not options.status:
            parser.error("name the benchmark; --status alone lists them")
        from msseg_lightning.compare.benchmark import status_text

        named = BenchmarkArguments.of("all", words).folder if words else FOLDER
        sys.stdout.write(status_text(all_benchmarks(named)))
        return ExitCode.OK
    given = BenchmarkArguments.of(options.name, words)
    if options.one is not None:
        from msseg_lightning.cli.imports import import_lightning

        benchmark = Benchmark.find(given)
        job = find_job(benchmark, options.one)
        import_lightning()
        from msseg_lightning.run.benchmark.worker import train_one

        train_one(benchmark, job)
        return ExitCode.OK

    from msseg_lightning.compare.benchmark import BenchmarkResult

    if options.status:
        sys.stdout.write(BenchmarkResult.read(Benchmark.find(given)).text())
        return ExitCode.OK
    if options.export:
        files = BenchmarkResult.read(Benchmark.find(given)).write()
        sys.stdout.write("\n".join(map(str, files)) + "\n")
        return ExitCode.OK
    return _run(Benchmark.begin(given), options.limit_minutes)


def _run(benchmark: Benchmark, minutes: float | None) -> ExitCode:
    from msseg_lightning.compare.benchmark import BenchmarkResult
    from msseg_lightning.compare.benchmark_tracking import BenchmarkTracking, tracking_of
    from msseg_lightning.compare.leaderboard_table import short_text
    from msseg_lightning.run.benchmark.worker import Worker

    def write() -> BenchmarkResult:
        found = BenchmarkResult.read(benchmark)
        found.write()
        return found

    tracking = tracking_of(benchmark)
    with contextlib.ExitStack() as stack:
        log = (
            stack.enter_context(BenchmarkTracking(tracking, benchmark).run()) if tracking else None
        )
        try:
            Worker(benchmark, write, minutes).run()
        except MssegError:  # the time is over: what is there is written and recorded
            found = write()
            if log is not None:
                log(found)
            raise
        found = write()
        if log is not None:
            log(found)
    if found.board is not None:
        sys.stdout.write(short_text(found.board) + "\n")
    sys.stdout.write(f"{found.text()}\nbenchmark    {benchmark.path}\n")
    if found.board is not None:
        sys.stdout.write(f"leaderboard  {benchmark.path / 'leaderboard.html'}\n")
    return ExitCode.PARTIAL if found.counts()["failed"] else ExitCode.OK
