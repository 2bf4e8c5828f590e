"""Send records that are missing in the tracking store, such as after an outage."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

EXAMPLES = """\
examples
  msseg sync                                    everything unsent below runs/ and sweeps/
  msseg sync runs/pre_unet                      what lies below this folder
  msseg sync --uri http://tracking.example:5000 to this store instead of mlruns/, everything
  msseg sync --uri sqlite:////data/mlruns/mlflow.db runs

Nothing is sent twice: a second call finds nothing to send. Every run gets the state that follows
from its records; one whose process died without recording an end is marked KILLED. A run that is
being recorded now is left to its own process. Only the store of the settings, or of --uri, is
written to, whatever store a run folder names.
exit codes: 0 everything is sent, 2 something was recorded for another store, 8 the store is
unavailable (what was sent before stays sent)
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
    parser.add_argument("--uri", help="the store (default: the one of `track` in the settings)")
    parser.add_argument("--artifacts", help="folder or URL for files, where --uri is a database")
    options = parser.parse_args(arguments)
    require_folders(options.runs)

    from msseg_lightning.track.recovery import find_journals, replay
    from msseg_lightning.track.store import without_password

    uri, artifacts = target(options.uri, options.artifacts)
    journals = find_journals(options.runs or [Path("runs"), Path("sweeps")])
    complete = busy = sent = 0
    for_other_stores: dict[str, list[Path]] = {}
    for result in replay(journals, uri, artifacts, everything=options.uri is not None):
        busy += result.busy
        if result.for_other_store:
            for_other_stores.setdefault(result.uri, []).append(result.folder)
        elif result.sent or result.state_updated:
            sent += 1
            place = os.path.relpath(result.folder)
            what = describe(result.sent) if result.sent else "its state"
            sys.stdout.write(f"{place}: {what} -> {without_password(uri)}\n")
            sys.stdout.flush()
        else:
            complete += not result.busy
    sys.stdout.write(f"{sent} sent, {complete} had been, {busy} in progress\n")
    refuse_other_stores(for_other_stores, uri)
    return ExitCode.OK


def target(uri: str | None, artifacts: str | None) -> tuple[str, str | None]:
    """Address of the store, and the folder or URL of its artifacts.

    Args:
        uri: given by the user; None for the store of the settings.
        artifacts: given by the user.
    """
    from msseg_lightning.run.assemble.system import instantiate
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.track.store import store_folder
    from msseg_lightning.track.tracking import Tracking

    if uri is None:
        tracking = instantiate(compose_config(complete=False)["track"])
    else:
        tracking = Tracking(uri=uri)
    local = store_folder(tracking.uri) is not None  # an SQLite file has its artifacts beside it
    return tracking.uri, artifacts or (None if local else tracking.artifacts)


def refuse_other_stores(for_other_stores: Mapping[str, Sequence[Path]], uri: str) -> None:
    """Refuse journals that were recorded for other stores.

    Raises:
        MssegError: there is something (exit 2), a problem for every such store.
    """
    from msseg_lightning.track.journal import Journal
    from msseg_lightning.track.store import sync_command, without_password

    problems = []
    for other, folders in for_other_stores.items():
        runs = {Journal(folder).run_folder for folder in folders}
        place = runs.pop() if len(runs) == 1 else Path(os.path.commonpath(runs))
        problems.append(
            Problem(
                "sync.other_store",
                f"{len(folders)} records were made for another store and were not sent",
                file=os.path.relpath(place),
                found=without_password(other),
                expected=without_password(uri),
                remedy=f"`{sync_command(uri, place)}`, or where you know and trust the other "
                f"store, `{sync_command(other, place)}`",
                exit_code=ExitCode.CONFIG,
            )
        )
    if problems:
        raise MssegError(problems)


def describe(sent: dict[str, int]) -> str:
    """Summary of what was sent."""
    parts = [f"{count} {WORDS[kind]}" for kind, count in sent.items() if kind in WORDS]
    others = sum(count for kind, count in sent.items() if kind not in WORDS)
    return ", ".join([*parts, f"{others} other records"])


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
