"""Score predicted masks by the official rules."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.shard import SHARD_HELP, Shard

if TYPE_CHECKING:
    from rich.console import Console

    from msseg_lightning.evaluate.case_score import CaseScore
    from msseg_lightning.evaluate.summary import Statistic, Summary

EXAMPLES = """\
examples
  msseg evaluate new.nii.gz ground_truth.nii.gz       one pair of masks
  msseg evaluate predictions/ /data/msseg2/           013.nii.gz against 013/ground_truth.nii.gz
  msseg evaluate predictions/ truths/ --csv all.csv   013.nii.gz against 013.nii.gz, a row per case
  msseg evaluate new.nii.gz truth.nii.gz --json -     for programs: nothing else on standard output
  msseg evaluate p.nii.gz truth.nii.gz --label-value=1=0 --label-value=2=1     old, new lesions
  msseg evaluate predictions/ truths/ --cases done/ --shard 1/4 --csv all.csv   a part of the cases

The measures have the names of the challenge's tool and agree with it. Cases with an empty
reference have only NbTestedLesions and VolTestedLesions and are never averaged with others.
--json writes a list with one object per case, also for a single pair; `official` holds the tool's
measures, null if undefined. --summary writes means, spread and bootstrap intervals.
exit codes: 0 all scored, 2 wrong options, 3 a mask was refused, 9 some cases had no counterpart
"""

COLUMNS = ("F1_score", "SensL", "PPVL", "Dice", "HausdorffDistance", "hausdorff95_mm")


def main(arguments: Sequence[str]) -> ExitCode:
    """Score masks, print the tables and write files."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.shard and not options.cases:
        parser.error("--shard needs --cases FOLDER, which collects the parts")

    from msseg_lightning.evaluate.case_score import ScoreOptions
    from msseg_lightning.evaluate.summary import summarise
    from msseg_lightning.run.data.evaluate_files import evaluate_files, find_pairs

    labels = label_options(parser, options)
    thresholds = ScoreOptions(options.min_lesion_volume, options.alpha, options.beta, options.gamma)
    pairs, unmatched = find_pairs(options.prediction, options.reference)
    used = [file for pair in pairs for file in pair.files]
    if options.cases:
        used += [options.cases / f"{pair.case}.json" for pair in pairs]
    _refuse_overwrites(options, used)
    scores = evaluate_files(
        pairs,
        thresholds,
        options.workers,
        labels["label_value"],
        options.cases,
        shard=options.shard,
        prediction_label_values=labels["prediction_label_value"],
    )
    if len(scores) < len(pairs):
        sys.stdout.write(
            f"{len(scores)} of {len(pairs)} cases are scored in {options.cases}; the part that "
            "completes them writes the tables\n"
        )
        return ExitCode.OK
    summary = summarise(scores)
    if options.csv:
        _write_csv(options.csv, scores)
    if options.summary:
        _write_json(options.summary, summary.as_dict())
    records = [{"case": case, **score.as_dict()} for case, score in scores.items()]
    if options.json == "-":
        json.dump(records, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        if options.json:
            _write_json(Path(options.json), records)
        _print(scores, summary)
        sys.stdout.write(_operating_points([pair.prediction for pair in pairs]))
    for problem in unmatched:
        sys.stderr.write(f"msseg: {problem}\n")
    return ExitCode.PARTIAL if unmatched else ExitCode.OK


def _operating_points(masks: Sequence[Path]) -> str:
    """The operating points by which `msseg predict` made these masks, one per line."""
    from msseg_lightning.run.predict.prediction_files import read_side_car

    points = [read_side_car(mask).get("operating_point") or {} for mask in masks]
    words = dict.fromkeys(str(one["is"]) for one in points if one.get("used"))
    return "".join(f"operating point: {text}\n" for text in words)


def _refuse_overwrites(options: argparse.Namespace, masks: Sequence[Path]) -> None:
    """Refuse to write tables over masks or foreign files."""
    from msseg_lightning.core.outputs import is_json_with, is_text_with, refuse_overwrites

    outputs = [
        (options.csv, is_text_with("case,new_lesions,")),
        (options.summary, is_json_with("with_lesions", "without_lesions")),
        (Path(options.json) if options.json not in (None, "-") else None, is_json_with("official")),
    ]
    wanted = [(file, is_own) for file, is_own in outputs if file is not None]
    refuse_overwrites(wanted, masks, "--csv, --json, --summary")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msseg evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prediction", type=Path, metavar="PREDICTION", help="mask, or folder")
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="mask, or folder")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one row per case")
    parser.add_argument("--json", metavar="FILE", help="everything, lesions too; - is stdout")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="both groups, as JSON")
    parser.add_argument(
        "--min-lesion-volume",
        type=_volume,
        default=3.0,
        metavar="MM3",
        help="lesions are strictly larger than this (3)",
    )
    for name, default, text in (
        ("alpha", 0.10, "more than this share of a lesion must be covered (0.10)"),
        ("beta", 0.70, "covering lesions may lie outside by this share (0.70)"),
        ("gamma", 0.65, "share of the overlap that is to be explained (0.65)"),
    ):
        parser.add_argument(f"--{name}", type=_share, default=default, metavar="X", help=text)
    parser.add_argument(
        "--label-value",
        type=label_value,
        action="append",
        default=[],
        metavar="255=1",
        help="what a value of the references means, 0 or 1; repeatable, in any order",
    )
    parser.add_argument(
        "--prediction-label-value",
        type=label_value,
        action="append",
        default=[],
        metavar="255=1",
        help="the same of the predictions; those of this package are 0 and 1",
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="threads (one per processor)")
    parser.add_argument(
        "--cases",
        type=Path,
        metavar="FOLDER",
        help="folder for the score of every case; saved scores of the same masks are reused",
    )
    parser.add_argument("--shard", type=Shard.parse, metavar="I/N", help=SHARD_HELP)
    return parser


def _volume(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a volume: 0 or more mm3")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share: above 0, at most 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of threads: 1 or more")
    return value


def label_value(text: str) -> tuple[int, int]:
    """A stored value and its meaning, from ``255=1``."""
    stored, _, meaning = text.partition("=")
    if not re.fullmatch("-?[0-9]+", stored) or meaning not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"{text} is not of the form 255=1")
    return int(stored), int(meaning)


def label_options(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> dict[str, dict[int, int]]:
    """Meanings of stored values by ``label_value`` and ``prediction_label_value``."""
    from msseg_lightning.read.nifti import label_meanings

    labels: dict[str, dict[int, int]] = {}
    for name in ("label_value", "prediction_label_value"):
        try:
            labels[name] = label_meanings(getattr(options, name))
        except ValueError as error:
            parser.error(f"--{name.replace('_', '-')}: {error}")
    return labels


def _write_json(path: Path, content: Any) -> None:
    from msseg_lightning.core.files import write_json

    write_json(path, content)


def _write_csv(path: Path, scores: Mapping[str, CaseScore]) -> None:
    """Write one row per case; cells of undefined measures are empty."""
    from msseg_lightning.core.files import atomic_write
    from msseg_lightning.core.table_cells import plain_row

    rows = [
        {
            "case": case,
            "new_lesions": int(score.has_new_lesions),
            **score.official,
            **score.surface,
            **score.detection,
            "reference_volume_mm3": score.reference_volume_mm3,
            "predicted_volume_mm3": score.predicted_volume_mm3,
        }
        for case, score in scores.items()
    ]
    # cases with lesions have more measures; they give the order of the columns
    longest = sorted(rows, key=len, reverse=True)
    columns = list(dict.fromkeys(name for row in longest for name in row))
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(map(plain_row, rows))


def _print(scores: Mapping[str, CaseScore], summary: Summary) -> None:
    """Print one table per group."""
    from rich.console import Console

    # wide enough for all columns where the output is no terminal
    console = Console() if sys.stdout.isatty() else Console(width=120)
    groups = summary.with_lesions, summary.without_lesions
    if groups[0].cases:
        _print_with_lesions(console, scores, summary)
    if groups[1].cases:
        _print_without(console, scores, summary)
    for case, score in scores.items():
        for note in score.notes:
            console.print(f"{case}: {note}", markup=False)


def _print_with_lesions(
    console: Console, scores: Mapping[str, CaseScore], summary: Summary
) -> None:
    from rich.table import Table

    group = summary.with_lesions
    table = Table(title="cases with new lesions", title_justify="left")
    table.add_column("case")
    for name in ("detected", "right", "F1", "SensL", "PPVL", "Dice", "HD mm", "HD95 mm"):
        table.add_column(name, justify="right")
    for case in group.cases:
        score = scores[case]
        count = score.detection
        values = {**score.official, **score.surface}
        table.add_row(
            case,
            f"{count['tp_ref']} of {count['n_ref']}",
            f"{count['tp_test']} of {count['n_test']}",
            *(_number(values[name]) for name in COLUMNS),
        )
    if len(group.cases) > 1:
        pooled = group.lesions
        table.add_section()
        table.add_row(
            "sum, mean",
            f"{pooled.detected} of {pooled.true}",
            f"{pooled.matched} of {pooled.predicted}",
            *(_mean(group.measures[name]) for name in COLUMNS),
        )
        table.add_row(
            "95 % interval", "", "", *(_interval(group.measures[name]) for name in COLUMNS)
        )
        if any(group.measures[name].undefined for name in COLUMNS):
            table.add_row(
                "without value",
                "",
                "",
                *(str(group.measures[name].undefined or "") for name in COLUMNS),
            )
    console.print(table)
    if len(group.cases) > 1:
        for row in group.by_size:
            above = f" above {row.low_mm3:g}" if row.low_mm3 else ""
            upper = f" up to {row.high_mm3:g}" if row.high_mm3 is not None else ""
            console.print(
                f"lesions{above}{upper} mm3: "
                f"{row.detected} of {row.true} detected, {row.matched} of {row.predicted} right",
                highlight=False,
            )


def _print_without(console: Console, scores: Mapping[str, CaseScore], summary: Summary) -> None:
    from rich.table import Table

    group = summary.without_lesions
    table = Table(title="cases without new lesions", title_justify="left")
    table.add_column("case")
    table.add_column("false lesions", justify="right")
    table.add_column("false volume mm3", justify="right")
    for case in group.cases:
        official = scores[case].official
        table.add_row(
            case,
            f"{official['NbTestedLesions']:.0f}",
            _number(official["VolTestedLesions"]),
        )
    if len(group.cases) > 1:
        table.add_section()
        columns = group.false_lesions, group.false_volume_mm3
        table.add_row("mean", *(_mean(column) for column in columns))
        table.add_row("95 % interval", *(_interval(column) for column in columns))
        table.caption = f"{group.clean} of {len(group.cases)} cases without a false lesion"
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(statistic: Statistic) -> str:
    return _number(statistic.mean)


def _interval(statistic: Statistic) -> str:
    if statistic.interval is None:
        return "-"
    return f"{statistic.interval[0]:.2f}-{statistic.interval[1]:.2f}"
