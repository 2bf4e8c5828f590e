"""Write the report of a run again: one HTML file with every lesion found, missed or false."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg report runs/pre_unet/msseg2-fold0-seed0
  msseg report runs/pre_unet/msseg2-fold0-seed0 --output fold0.html
  msseg report runs/pre_unet/msseg2-fold0-seed0 --pictures figures
  msseg report 0b1c...                        MLflow's id of a run under runs/

The file needs no network. Its pictures show brains only, never faces; it contains the case ids of
the data. Research use only.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Write ``report.html`` again and print its path."""
    options = _parser().parse_args(arguments)
    from msseg_lightning.core.outputs import is_text_with, refuse_overwrites
    from msseg_lightning.report.page import GENERATOR
    from msseg_lightning.report.run_page import write_pictures
    from msseg_lightning.run.folder import RunFolder
    from msseg_lightning.run.train.run_report import build_report, report_context

    given = run_path(options.run, Path(options.runs))
    if (given / "out_of_fold.json").is_file():  # all folds of one seed
        from msseg_lightning.compare.multirun_report import build_multirun_report

        sys.stdout.write(f"{build_multirun_report([given])}\n")
        return ExitCode.OK
    folder = RunFolder.find(str(given))
    output = Path(options.output) if options.output else folder.report_file
    if options.output:
        refuse_overwrites([(output, is_text_with(GENERATOR))], field="--output")
    if options.pictures and not Path(options.pictures).is_dir():
        refuse_overwrites([(Path(options.pictures), lambda _: False)], field="--pictures")
    sys.stdout.write(f"{build_report(folder, output)}\n")
    if options.pictures:
        files = write_pictures(report_context(folder, str), Path(options.pictures))
        sys.stdout.write(f"{len(files)} pictures in {options.pictures}\n")
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msseg report",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run folder, the folder of all its folds, or MLflow's id of a run",
    )
    parser.add_argument("--output", metavar="FILE", help="default: report.html in the run folder")
    parser.add_argument(
        "--pictures", metavar="FOLDER", help="also write each lesion's picture as a PNG"
    )
    parser.add_argument("--runs", default="runs", help="where run ids are looked up")
    return parser


def run_path(run: str, runs: Path) -> Path:
    """A run folder, or the one with an MLflow run id."""
    from msseg_lightning.core.files import DamagedFileError, read_record

    given = Path(run)
    if given.is_dir() or not runs.is_dir():
        return given
    for record in sorted(runs.glob("*/*/run.json")):
        try:
            known = read_record(record).get("mlflow_run_id")
        except (OSError, DamagedFileError):  # of another run: it says nothing of this one
            continue
        if known == run:
            return record.parent
    return given
