"""Fit one system on one fold, predict the held-out pairs, score, report and track."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.core.wording import counted, program

EXAMPLES = """\
examples
  msseg train pre_unet read.root=/data/msseg2                   fold 0 of five, as in the paper
  msseg train pre_unet read.root=/data/msseg2 fold=3 seed=1
  msseg train pre_unet read.root=/data/msseg2 fold=all seed=0,1   every fold, one table, one model
  msseg train pre_unet read.root=cohorts/small size=cpu         minutes on two CPU cores
  msseg train pre_unet read=open_ms read.root=/data/open_ms split=leave_one_out
  msseg train segresnet_shallow read.root=/data/msseg2 loss=dice_focal_deep train.steps=5000
  msseg train pre_unet read.root=/data/mine train.init=runs/pre_unet/msseg2-fold0-seed0
                                                                start from its weights
  msseg train bsi_subtraction read.root=/data/msseg2            nothing to fit, same protocol
  msseg train pre_unet read.root=/data/msseg2 debug=fast        two steps on two pairs: does it run?
  msseg train pre_unet read.root=/data/msseg2 debug=overfit     one pair until it is learned
  msseg train pre_unet read.root=/data/msseg2 'loggers=[csv,tensorboard]'   beside MLflow

The same command again continues an interrupted run and changes nothing in a finished one.
Results are in runs/<experiment>/<data>-fold<k>-seed<s>/; `msseg ui` compares runs.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Run an experiment."""
    parser = argparse.ArgumentParser(
        prog="msseg train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="a name from `msseg list`, or a file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="see `msseg show`"
    )
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.cli.imports import import_lightning

    import_lightning()
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.config.debug import OVERFIT, with_debug
    from msseg_lightning.run.train.debug_split import overfit_verdict
    from msseg_lightning.run.train.experiment import train_experiment
    from msseg_lightning.run.train.folds_and_seeds import is_multirun, train_multirun

    several = is_multirun(options.overrides)
    if several and any(word.startswith("debug=") for word in options.overrides):
        parser.error("debug= is for one fold and one seed")
    config = {} if several else with_debug(compose_config(options.overrides, options.experiment))

    from msseg_lightning.train.ranks import releasing_followers, run_follower

    if (
        code := run_follower()
    ) is not None:  # torchrun or srun started this process beside the leader
        return ExitCode(code)
    with releasing_followers():
        if several:
            folders = train_multirun(options.experiment, options.overrides)
            sys.stdout.write(describe_multirun(folders))
            from msseg_lightning.compare.benchmark_tracking import track_all_folds
            from msseg_lightning.compare.multirun_report import build_multirun_report

            sys.stdout.write(f"report  {build_multirun_report(folders)}\n")
            track_all_folds(folders)
            return ExitCode.OK
        outcome = train_experiment(config)
    sys.stdout.write(describe(outcome.summary))
    sys.stdout.write(f"\nrun     {outcome.folder.path}\nreport  {outcome.folder.report_file}\n")
    if outcome.tracking_uri:
        sys.stdout.write(f"ui      {program()} ui\n")
    if config["debug"] == OVERFIT:
        sys.stdout.write(overfit_verdict(outcome.folder))
    return ExitCode.OK


def describe(summary: dict[str, dict]) -> str:
    """Main results of held-out pairs with and without new lesions, as text."""
    if not summary:
        return ""
    present, absent = summary["with_lesions"], summary["without_lesions"]
    lines = []
    if not present["cases"] and not absent["cases"]:
        lines.append("no pair was held out: nothing is scored")
    if present["cases"]:
        measures, lesions = present["measures"], present["lesions"]
        lines.append(
            f"{counted(len(present['cases']), 'pair')} with new lesions: "
            f"Dice {number(measures['Dice'])}, lesion F1 {number(measures['F1_score'])}, "
            f"{lesions['detected']} of {lesions['true']} lesions detected, "
            f"{lesions['predicted'] - lesions['matched']} false"
        )
    if absent["cases"]:
        lines.append(
            f"{counted(len(absent['cases']), 'pair')} without: {absent['clean']} clean, "
            f"{number(absent['false_lesions'], '.1f')} false lesions per pair"
        )
    return "\n".join(lines) + "\n"


def describe_multirun(folders: Sequence[Path]) -> str:
    """Results of all folds per seed, and the spread over seeds, as text."""
    from msseg_lightning.run.folder import read_scores

    lines = []
    for folder in folders:
        summary = read_scores(folder / "scores.json")["summary"]
        lines.append(f"{describe(summary)}out of fold  {folder}\n")
    if len(folders) > 1:
        for name in ("Dice", "F1_score"):
            values = [value for folder in folders if (value := _mean_of(folder, name)) is not None]
            if len(values) > 1:
                lines.append(
                    f"{name} over {len(values)} seeds: {statistics.mean(values):.3f}, "
                    f"SD {statistics.stdev(values):.3f}\n"
                )
    return "\n".join(lines)


def _mean_of(folder: Path, measure: str) -> float | None:
    from msseg_lightning.run.folder import read_scores

    summary = read_scores(folder / "scores.json")["summary"]
    mean = summary["with_lesions"]["measures"].get(measure, {}).get("mean")
    return None if mean is None else float(mean)


def number(statistic: dict[str, object], form: str = ".3f") -> str:
    """Mean and interval of a statistic, as text."""
    if statistic["mean"] is None:
        return "undefined"
    text = f"{statistic['mean']:{form}}"
    interval = statistic["interval"]
    if isinstance(interval, tuple | list):
        text += f" [{interval[0]:{form}}, {interval[1]:{form}}]"
    return text
