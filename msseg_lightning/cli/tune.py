"""Choose the operating point of a trained system under a budget of false lesions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

EXAMPLES = """\
examples
  msseg tune runs/pre_unet/msseg2-folds5-seed0 --false-lesions 0.25
      all folds: each fold's point is chosen on the held-out patients of the others, and the point
      of the model of all folds on all of them
  msseg tune runs/pre_unet/msseg2-fold0-seed0 --false-lesions 0.5 --confidence 0.8
      one run: chosen on its validation patients
  msseg tune RUN --false-lesions 0.1 --population all --too-few refuse

The point is a threshold of the probability, a smallest lesion and a least lesion score (mean
probability inside). It finds as many lesions as it can while an upper confidence limit of the
false lesions per patient stays within the budget, so that unseen patients of the same kind have no
more with that confidence. Test patients are never used to choose it. Where the patients are too
few to certify the budget this is said, and the strictest point is taken, or none (--too-few).

It is stored with the model (model/operating_point.json) together with calibrated lesion
probabilities, used by `msseg predict` from then on (--operating-point off for the system's own
rules) and shown in the report. Scores with it are in RUN/operating_point/scores.json, which
`msseg compare RUN RUN/operating_point` puts beside the system's own. docs/operating_point.md
exit codes: 0 chosen, 2 no such point, 4 no such run or its data changed
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Choose and store the point; print it with the scores before and after."""
    options = _parser().parse_args(arguments)
    from msseg_lightning.cli.train import describe
    from msseg_lightning.compare.multirun_report import build_multirun_report
    from msseg_lightning.run.folder import RunFolder
    from msseg_lightning.run.train.choose_point import Choice, choose_for_folds, choose_for_run
    from msseg_lightning.run.train.run_report import build_report

    choice = Choice(
        budget=options.false_lesions,
        confidence=options.confidence,
        population=options.population,
        thresholds=tuple(options.thresholds),
        smallest_mm3=tuple(options.smallest_mm3),
        measure=options.score,
        calibration=options.calibration,
        too_few=options.too_few,
    )
    place = Path(options.run)
    if (place / "out_of_fold.json").exists():
        chosen = choose_for_folds(place, choice)
        report = build_multirun_report([place])
    else:
        _refuse_several_seeds(place)
        folder = RunFolder.find(options.run)
        with folder.lock():
            chosen = choose_for_run(folder, choice)
        report = build_report(folder, folder.report_file)
    known = chosen.stored.reliability
    lines = [
        f"operating point: {chosen.stored.words}",
        "the system's own rules, held-out pairs",
        *_indented(describe(chosen.before)),
        "at the operating point"
        + (", each fold at that of the others" if (place / "out_of_fold.json").exists() else ""),
        *_indented(describe(chosen.after)),
    ]
    if known["lesions"]:
        lines.append(
            f"calibration: Brier score by lesion {known['brier_before']:.3f} before, "
            f"{known['brier_after']:.3f} after ({known['lesions']} lesions, {known['true']} true)"
        )
    lines += [f"scores  {chosen.folder / 'scores.json'}", f"report  {report}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.OK


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _refuse_several_seeds(place: Path) -> None:
    if (place / "summary.csv").exists() and not (place / "config.yaml").exists():
        raise MssegError(
            Problem(
                "point.several_seeds",
                "this is the folder of several seeds, each of which has a point of its own",
                file=place,
                expected="the folder of one run, or of all folds of one seed",
                remedy="give the folder of one seed: "
                f"{place.with_name(place.name.replace('-seeds', '-seed').split('+')[0])}",
                exit_code=ExitCode.MODEL,
            )
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msseg tune",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of all folds of a seed")
    parser.add_argument(
        "--false-lesions",
        type=float,
        required=True,
        metavar="NUMBER",
        help="allowed false lesions per patient, e.g. 0.05",
    )
    parser.add_argument(
        "--confidence", type=float, default=0.9, metavar="SHARE", help="of the limit (0.9)"
    )
    parser.add_argument(
        "--population",
        choices=("without", "all"),
        default="without",
        help="patients of the budget: without new lesions (default), or all",
    )
    parser.add_argument(
        "--thresholds",
        type=float,
        nargs="*",
        default=[0.1, 0.2, 0.3, 0.5, 0.7],
        metavar="P",
        help="tried besides the system's own (0.1 0.2 0.3 0.5 0.7); none keeps its own",
    )
    parser.add_argument(
        "--smallest-mm3",
        type=float,
        nargs="+",
        default=[0, 5, 10, 20],
        metavar="MM3",
        help="smallest lesions that are tried (0 5 10 20)",
    )
    parser.add_argument(
        "--score",
        choices=("mean", "max"),
        default="mean",
        help="score of a lesion: mean (default) or largest probability inside",
    )
    parser.add_argument(
        "--calibration",
        choices=("temperature", "isotonic"),
        default="temperature",
        help="of lesion probabilities; isotonic needs some hundred lesions",
    )
    parser.add_argument(
        "--too-few",
        choices=("strictest", "refuse"),
        default="strictest",
        help="where the patients cannot certify the budget: a point without a false lesion in "
        "them (default), or none",
    )
    return parser
