"""The ``msseg`` command."""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import importlib
import io
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from msseg_lightning import __version__
from msseg_lightning.core.memory import keep_freed_memory
from msseg_lightning.core.problem import ExitCode, MssegError, Problem, disk_error, out_of_memory
from msseg_lightning.run.config.user_packages import packages_of

COMMANDS = (
    "list",
    "show",
    "check",
    "simulate",
    "prepare",
    "train",
    "tune",
    "predict",
    "export",
    "evaluate",
    "compare",
    "benchmark",
    "convert",
    "report",
    "sweep",
    "sync",
    "ui",
    "verify-run",
    "download",
    "demo",
)

CONTINUED = ("check", "simulate", "prepare", "train", "predict", "sweep", "sync", "demo")
"""Commands that, given again, keep what is finished."""

LEVELS = {"--quiet": "WARNING", "--verbose": "DEBUG"}
"""Options of every command -> level of the messages; results are printed in any case."""

USAGE = """\
New multiple-sclerosis lesions between two FLAIR scans: every MSSEG-2 system, one line.

usage: msseg COMMAND [EXPERIMENT] [key=value ...]

{commands}

first steps
  msseg demo                                          train, predict, score and report in minutes
  msseg list                                          the systems and what their papers report
  msseg check read=msseg2 read.root=/data/msseg2      is every scan and mask sound?
  msseg train pre_unet read.root=/data/msseg2 fold=0  one tracked experiment; run again to resume
  msseg predict RUN --baseline B.nii.gz --followup F.nii.gz --output new.nii.gz
  msseg tune RUN --false-lesions 0.25                 an operating point for a false-alarm budget
  msseg evaluate new.nii.gz truth.nii.gz              the official scores, and which lesions
  msseg export RUN --zip system.zip                   share it: `msseg predict system.zip ...`
  msseg sweep pre_unet read.root=/data/msseg2         search hyperparameters; run again to resume
  msseg compare runs/*/msseg2-fold0-seed0             a leaderboard: what can be told apart
  msseg benchmark all systems=all read.root=/data/msseg2   every system under one protocol
  msseg ui                                            look at runs in MLflow
  msseg download open_ms                              the public longitudinal scans

Many subjects or GPUs: `--shard 1/8`, `launcher=slurm`; see docs/scaling.md.
Your own experiments, presets and classes: docs/own_files.md.
Every setting can be changed: `msseg show pre_unet` prints them, `key=value` sets one.
`MSSEG_PROBLEMS=json msseg ...` writes refusals as JSON records, one a line, for programs.
`msseg COMMAND --help` explains each command; `--quiet` and `--verbose` go with all of them.
Research use only; not a medical device.
exit codes: {codes}
"""


def summary(command: str) -> str:
    """First docstring line of a command's module, read without importing it."""
    source = Path(__file__).with_name(f"{_module(command)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def _module(command: str) -> str:
    return command.replace("-", "_")


def usage() -> str:
    """Text of ``msseg --help``."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {summary(name)}" for name in COMMANDS)
    codes = ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode)
    return USAGE.format(commands=commands, codes=codes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors end as a message and an exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        keep_streams()
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return ExitCode.OK if words else ExitCode.CONFIG
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"msseg_lightning {__version__}\n")
        return ExitCode.OK
    words, level = _without_levels(words)
    if not words:
        sys.stdout.write(usage())
        return ExitCode.CONFIG
    command, *rest = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean `msseg {near[0]}`?" if near else ""
        sys.stderr.write(f"msseg: there is no command {command!r}{hint}\nTry `msseg --help`.\n")
        return ExitCode.CONFIG
    _quiet_start(level)
    keep_freed_memory()
    try:
        with _unwinding(), packages_of(rest) as rest:
            if any(word.startswith("launcher=") for word in rest):
                from msseg_lightning.run.cluster.launch import launch

                sys.stdout.write(launch(command, rest))
                return ExitCode.OK
            module = importlib.import_module(f"msseg_lightning.cli.{_module(command)}")
            code = int(module.main(rest))
            sys.stdout.flush()  # a full disk is noticed here, not after the exit code is decided
            return code
    except MssegError as error:
        for problem in error.problems:
            _write(problem)
        return int(error.exit_code)
    except KeyboardInterrupt:
        how = "; the same command goes on" if command in CONTINUED else ""
        sys.stderr.write(f"msseg: interrupted{how}\n")
        return ExitCode.INTERRUPTED
    except Exception as error:
        if (failure := disk_error(error)) is not None:
            code = _environment(failure)
            _drop_unwritten()
            return code
        if not out_of_memory(error):
            return _unforeseen()
        return _report(
            Problem(
                "environment.memory",
                "out of memory; nothing is half written",
                found=" ".join(str(error).split())[:200],
                remedy="free some and give the same command again, or with data.workers=1, or with "
                "a smaller train.batch_size or sample.size",
                exit_code=ExitCode.ENVIRONMENT,
            )
        )


class Tolerant:
    """A text stream whose reader may go away: what is written from then on is dropped.

    A pager or ``head`` that ends, and a terminal that is closed, do not end the work of a command.

    Args:
        stream: standard output or standard error.
        lost: error numbers that mean that nobody reads any more.
    """

    def __init__(self, stream: TextIO, lost: Collection[int]) -> None:
        self._stream, self._lost = stream, lost

    def write(self, text: str) -> int:
        """Write a text, as a text stream does."""
        with self._until_lost():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._until_lost():
            self._stream.flush()

    @contextlib.contextmanager
    def _until_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in self._lost:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def keep_streams() -> None:
    """Open standard streams that the caller closed, and let their readers go away.

    The next file that is opened would else become standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # where the locale has no such letter
        sys.stdout.reconfigure(errors="backslashreplace")
    gone = {errno.EPIPE, errno.EIO, errno.ECONNRESET}
    sys.stdout = cast(TextIO, Tolerant(sys.stdout, gone))
    sys.stderr = cast(TextIO, Tolerant(sys.stderr, gone | {errno.ENOSPC, errno.EDQUOT}))


def _drop_unwritten() -> None:
    """Drop what standard output cannot take: Python would end with 120 on trying again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unforeseen() -> int:
    logging.getLogger("msseg").exception("unforeseen error; please report it with this text")
    return ExitCode.INTERNAL


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """Turn signals that end a process into exceptions: locks are released and runs closed."""
    codes = {signal.SIGTERM: ExitCode.TERMINATED, signal.SIGUSR1: ExitCode.PREEMPTED}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup asks for
        codes[signal.SIGHUP] = ExitCode.HUNG_UP

    def end(number: int, frame: object) -> None:
        raise SystemExit(int(codes[signal.Signals(number)]))

    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield
        return
    before = {number: signal.signal(number, end) for number in codes}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(error: OSError) -> int:
    """Error (exit 5) for a full disk, missing permissions and the like."""
    in_the_way = isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError)
    return _report(
        Problem(
            "environment.in_the_way" if in_the_way else "environment.files",
            error.strerror or str(error),
            file=error.filename,
            remedy="a file stands where a folder is needed, or a folder where a file is: move it "
            "away, or name another place"
            if in_the_way
            else "check free space and permissions, then give the same command again, or name "
            "another folder: settings paths.runs=FOLDER paths.cache=FOLDER, or the option",
            exit_code=ExitCode.ENVIRONMENT,
        )
    )


def _report(problem: Problem) -> int:
    _write(problem)
    return int(problem.exit_code)


def _write(problem: Problem) -> None:
    """Write a problem to standard error: a line for people, or a JSON record for programs."""
    if os.environ.get("MSSEG_PROBLEMS") == "json":
        sys.stderr.write(json.dumps(problem.as_dict()) + "\n")
    else:
        sys.stderr.write(f"msseg: {problem}\n")


def _without_levels(words: Sequence[str]) -> tuple[list[str], str]:
    """The words without ``--quiet`` and ``--verbose``, which every command takes, and the level."""
    level = os.environ.get("MSSEG_LOG", "INFO").upper()
    for word in words:
        level = LEVELS.get(word, level)
    return [word for word in words if word not in LEVELS], level


def _quiet_start(level: str) -> None:
    """Log to stderr; turn off advertising and telemetry of libraries."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_DB_SQLALCHEMY_WARNINGS": "false",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module="lightning")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(OncePerText())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("msseg_lightning").setLevel(level)
    logging.getLogger("msseg").setLevel(level)
    for noisy in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "alembic",
        "mlflow",
    ):
        logging.getLogger(noisy).setLevel(logging.ERROR)


class OncePerText(logging.Filter):
    """Logging filter that drops repeated messages."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this message is new."""
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new


if __name__ == "__main__":
    sys.exit(main())
