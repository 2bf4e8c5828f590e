"""Compare systems on the same patients: leaderboard, intervals, tests, ranks and ties."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg compare runs/pre_unet/msseg2-fold0-seed0 runs/segresnet_shallow/msseg2-fold0-seed0
  msseg compare runs/*/msseg2-folds5-seed0 runs/*/msseg2-folds5-seed1 --output leaderboard
  msseg compare runs/pre_unet/msseg2-fold0-seed0 nnunet=predictions/ --reference /data/msseg2
  msseg compare a=masks_a/ b=masks_b/ read=msseg2 read.root=/data/msseg2
  msseg compare runs/*/msseg2-fold0-seed0 --reference-version without_rater1
  msseg compare runs/*/msseg2-folds5-seed0 --output table.tex       or .html, .md, .csv
  msseg compare small nnunet=predictions/ --reference cohorts/small   a benchmark and another tool

RUN is the name or folder of a benchmark, the folder of a run, of all folds of a seed or of several
seeds, of a data set that `msseg predict` has scored, or any folder of masks named after the cases,
which is scored against --reference or a data set. Folds and seeds of one experiment are one system.
NAME=RUN names a system; several RUNs of one name are its seeds.

What is told: intervals over patients, a test of every two systems corrected for their number,
how often each is first, letters (systems that share one cannot be told apart), and the smallest
difference that so many patients can show. Patients with and without new lesions stay apart.
Refused: systems scored by other rules or against other references, or trained on other patients.
Patients that only some systems scored are named; --common leaves them out.
exit codes: 0 compared, 2 wrong options, 3 these systems may not stand in one table
"""

READING = ("read=", "read.", "data.reading.")
"""Settings that name a data set."""


def main(arguments: Sequence[str]) -> ExitCode:
    """Compare, print the leaderboard and write its files."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    settings = [word for word in options.runs if word.lstrip("+").startswith(READING)]
    runs = [word for word in options.runs if word not in settings]
    if not runs:
        parser.error("name the folders of the systems to compare")
    if settings and options.reference:
        parser.error("give --reference or a data set, not both")

    from msseg_lightning.cli.evaluate import label_options
    from msseg_lightning.compare.benchmark import benchmark_words
    from msseg_lightning.compare.foreign import ForeignData
    from msseg_lightning.compare.leaderboard import make_leaderboard
    from msseg_lightning.compare.leaderboard_page import check_output, write_leaderboard
    from msseg_lightning.compare.leaderboard_table import short_text
    from msseg_lightning.compare.systems import read_systems
    from msseg_lightning.evaluate.case_score import ScoreOptions

    labels = label_options(parser, options)
    runs = [run for word in runs for run in benchmark_words(word) or [word]]
    if options.output:
        folders = [Path(word.partition("=")[2] or word) for word in runs]
        check_output(options.output, [folder / "scores.json" for folder in folders])
    data = None
    if settings:
        data = ForeignData.of_data_set(settings, labels["prediction_label_value"])
    elif options.reference:
        data = ForeignData(
            options.reference,
            label_values=labels["label_value"],
            prediction_label_values=labels["prediction_label_value"],
        )
    if options.reference_version:
        ScoreOptions(reference=options.reference_version)  # refuses an unknown one
    systems = read_systems(runs, data, options.common, options.reference_version)
    board = make_leaderboard(systems, options.measure, froc=options.froc)
    sys.stdout.write(short_text(board))
    if options.output:
        files = write_leaderboard(board, options.output)
        sys.stdout.write("\n" + "\n".join(map(str, files)) + "\n")
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    from msseg_lightning.cli.evaluate import label_value

    parser = argparse.ArgumentParser(
        prog="msseg compare",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="see below; also read=... settings")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PLACE",
        help="folder for page, tables and pictures, or one file: .html, .md, .csv, .tex",
    )
    parser.add_argument(
        "--reference", type=Path, metavar="FOLDER", help="references of folders of masks"
    )
    parser.add_argument(
        "--reference-version",
        metavar="VERSION",
        help="score the stored masks again against rater1, without_rater1 (majority of the other "
        "raters), adjudicated or consensus",
    )
    parser.add_argument(
        "--common", action="store_true", help="leave out pairs that not every system scored"
    )
    parser.add_argument(
        "--froc",
        action="store_true",
        help="sensitivity over false lesions per patient; reads masks and probability maps",
    )
    parser.add_argument(
        "--measure",
        choices=("f1", "dice", "sensitivity", "precision"),
        default="f1",
        help="ranks the systems (f1)",
    )
    for name, whose in (("label-value", "references"), ("prediction-label-value", "masks")):
        parser.add_argument(
            f"--{name}",
            type=label_value,
            action="append",
            default=[],
            metavar="255=1",
            help=f"what a value of the {whose} in folders means, 0 or 1; repeatable",
        )
    return parser
