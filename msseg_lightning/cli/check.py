"""Check all files of a data set and list every problem."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.core.progress import stage

if TYPE_CHECKING:
    from msseg_lightning.run.data.check import CheckReport

EXAMPLES = """\
examples
  msseg check --layout                     the names that are read, for every kind of data set
  msseg check read=bids --layout           for one kind
  msseg check read=msseg2 read.root=/data/msseg2
  msseg check read=open_ms read.root=/data/open_ms_data
  msseg check read=bids read.root=/data/bids --json report.json
  msseg check read=table read.manifest=pairs.csv --json -
  msseg check read=msseg2 read.root=/data data.reading.trust=sform

options of the checks, as data.reading.NAME=VALUE; `train` and `predict` take the same
  strict                   refuse also misleading file endings and negative scaling
  trust                    sform or qform: which to follow where they conflict
  allow_nan_outside_brain  set NaN outside the brain mask to 0
  confirm_mirrored         accept pairs that look mirrored left-right, after checking them by eye
  allow_external_links     files may lie outside the data root, behind links
  soft_labels              masks may hold any value from 0 to 1
  label_values             what values of references mean, e.g. '{255: 1}' or '{1: 0, 2: 1}'
  largest_mask_fraction    share of all voxels a lesion mask may cover (0.1)

The order of visits, and how it was found, is printed first; read=bids takes
`read.session_order=[pre,post]` if dates and labels do not give it.
Every finding names file, field, found and expected value, and a remedy.
exit codes: 0 sound (perhaps with warnings), 2 wrong options, 3 data refused, 5 unreadable,
6 a path or device that must not be opened
"""
MANY = 3


def main(arguments: Sequence[str]) -> ExitCode:
    """Check a data set; the exit code tells whether it can be used."""
    options = _parser().parse_intermixed_args(arguments)

    from msseg_lightning.read.nifti import gate_options
    from msseg_lightning.run.assemble.system import instantiate
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.data.check import check_dataset

    if options.layout:
        sys.stdout.write(layouts(options.overrides))
        return ExitCode.OK
    config = compose_config(options.overrides)
    gate = gate_options(config["data"]["reading"])
    if options.json not in (None, "-"):
        from msseg_lightning.core.outputs import is_json_with, refuse_overwrites

        file = Path(options.json)
        refuse_overwrites([(file, is_json_with("subjects", "problems"))], field="--json")
    with _Bar() as bar, stage("reading every file of every pair"):
        report = check_dataset(instantiate(config["read"]), gate, options.workers, bar.advance)
    if options.json == "-":
        json.dump(report.as_dict(), sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        if options.json:
            from msseg_lightning.core.files import write_json

            write_json(Path(options.json), report.as_dict())
        sys.stdout.write("\n".join(lines(report)) + "\n")
    return report.exit_code


def lines(report: CheckReport) -> list[str]:
    """The report as text: order of visits, errors, summarised warnings and the result."""
    text = [f"order    {line}" for line in report.order]
    text += [f"error    {problem}" for problem in report.errors]
    frequent = {
        code
        for code, count in Counter(problem.code for problem in report.warnings).items()
        if count > MANY
    }
    text += [f"warning  {p}" for p in report.warnings if p.code not in frequent]
    for code in sorted(frequent):
        same = [problem for problem in report.warnings if problem.code == code]
        text.append(f"warning  {same[0]}")
        text.append(f"         ... and {len(same) - 1} more with [{code}]; --json lists them all")
    if report.labelled < len(report.subjects):
        text.append(
            f"note     {len(report.subjects) - report.labelled} of {len(report.subjects)} have no "
            "reference: they can be predicted, not trained on or scored"
        )
    pairs, patients = len(report.subjects), "pair" if len(report.subjects) == 1 else "pairs"
    verdict = "not usable" if report.errors else "sound"
    if not report.errors and any(p.code.startswith("content.") for p in report.warnings):
        verdict = "look at the scans that [content...] warnings name"
    text.append(
        f"{pairs} {patients} checked, {report.labelled} with a reference: "
        f"{len(report.errors)} errors, {len(report.warnings)} warnings - {verdict}"
    )
    return text


def layouts(overrides: Sequence[str]) -> str:
    """The layout of the reader that ``read=NAME`` chooses, or of every reader."""
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.config.preset_files import preset_files

    chosen = any(word.startswith("read=") for word in overrides)
    words = [[]] if chosen else [[f"read={name}"] for name in sorted(preset_files("read"))]
    return "\n".join(
        layout_of(compose_config([*overrides, *word], complete=False)["read"]["_target_"])
        for word in words
    )


def layout_of(target: str) -> str:
    """The layout that a class of a reader describes; its docstring if it has none."""
    module, _, name = target.rpartition(".")
    reader = getattr(importlib.import_module(module), name)
    return str(getattr(reader, "LAYOUT", None) or f"{inspect.getdoc(reader)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msseg check",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, as in train"
    )
    parser.add_argument("--json", metavar="FILE", help="the report as JSON; - is standard output")
    parser.add_argument(
        "--layout",
        action="store_true",
        help="print how the files must lie and be called, and leave",
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="pairs checked side by side")
    return parser


class _Bar:
    """A progress bar on a terminal's standard error."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` pairs are checked."""
        if not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True))
            self._progress.start()
            self._task = self._progress.add_task("checking pairs", total=total)
        self._progress.update(self._task, completed=done)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes: 1 or more")
    return value
