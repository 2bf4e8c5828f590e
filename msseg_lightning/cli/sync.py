"""Send records that are missing in the tracking store, such as after an outage."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

EXAMPLES = """\
examples
  msseg sync                                    everything unsent below runs/ and sweeps/
  msseg sync runs/pre_unet                      what lies below this folder
  msseg sync --uri http://tracking.example:5000 tell another store everything, from the beginning
  msseg sync --uri sqlite:////data/mlruns/mlflow.db runs

Nothing is sent twice: the second call finds nothing to send. A run that is being recorded now is
left to its own process. A run whose process died without a word is marked KILLED.
exit codes: 0 everything is sent, 8 a store is away (what was sent before stays sent)
"""

WORDS = {"points": "metric points", "artifact": "files", "text": "texts"}


def main(arguments: Sequence[str]) -> ExitCode:
    """Send journals to the tracking store."""
    parser = argparse.ArgumentParser(
        prog="msseg sync",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders (default: runs sweeps)")
    parser.add_argument("--uri", help="another store than the one of each run")
    options = parser.parse_args(arguments)
    require_folders(options.runs)

    from msseg_lightning.track.recovery import find_journals, replay, without_password
    from msseg_lightning.track.tracking import usable

    target = usable(options.uri) if options.uri else None
    journals = find_journals(options.runs or [Path("runs"), Path("sweeps")])
    complete = busy = sent = 0
    for result in replay(journals, target):
        busy += result.busy
        complete += not result.busy and not result.sent
        if result.sent:
            sent += 1
            what = describe(result.sent)
            place = os.path.relpath(result.folder)
            sys.stdout.write(f"{place}: {what} -> {without_password(result.uri)}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{sent} sent, {complete} had been, {busy} in progress\n")
    return ExitCode.OK


def describe(sent: dict[str, int]) -> str:
    """Summary of what was sent."""
    parts = [f"{count} {WORDS[kind]}" for kind, count in sent.items() if kind in WORDS]
    others = sum(count for kind, count in sent.items() if kind not in WORDS)
    return ", ".join([*parts, f"{others} other notes"])


def require_folders(folders: Sequence[Path]) -> None:
    """Refuse folders that do not exist.

    Raises:
        MssegError: a folder that does not exist (exit 2).
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise MssegError(
            Problem(
                "sync.missing",
                "there is no such folder",
                file=missing[0],
                expected="a run folder, or one that holds run folders",
                remedy="give a folder under runs/, or none for all of them: `msseg sync`",
                exit_code=ExitCode.CONFIG,
            )
        )
