"""Search hyperparameters; any number of processes share one search, and any of them may die."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg sweep pre_unet read.root=/data/msseg2                       conf/search/default.yaml
  msseg sweep pre_unet search=optimiser read.root=/data/msseg2      another file of conf/search
  msseg sweep pre_unet search.trials=12 'search.folds=[0,1]' read.root=cohort size=cpu
  msseg sweep pre_unet 'search.space.loss={type: categorical, choices: [dice, dice_focal_deep]}'
  msseg sweep pre_unet name=lr store=postgresql+psycopg://user@host/optuna ...   many machines
  msseg sweep pre_unet name=lr --status           also --best, --export; same settings as before

The same command again continues; the same command in another shell or on another machine (with
store=URL) joins. A trial is trained on folds in turn and may be pruned between them; the best few
are trained again with new seeds. Candidates are compared on the held-out pairs of these folds: the
score of the winner is no test result, keep patients apart for one. Everything lies in
sweeps/<name>/: study.db, trials/, trials.csv, best.json, plots/.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Run, join or look at a sweep."""
    parser = argparse.ArgumentParser(
        prog="msseg sweep",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="a name from `msseg list`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="see the examples")
    parser.add_argument("--status", action="store_true", help="count trials and leave")
    parser.add_argument("--best", action="store_true", help="print the best trials and leave")
    parser.add_argument("--export", action="store_true", help="write tables and plots and leave")
    options = parser.parse_args(arguments)

    from msseg_lightning.compare.run_report import build_report
    from msseg_lightning.run.sweep_command import open_sweep, run_sweep

    sweep, config = open_sweep(options.experiment, options.overrides, build_report)
    if options.status:
        sys.stdout.write(json.dumps(sweep.status(), indent=2) + "\n")
    elif options.best:
        for trial in sweep.finished()[:5]:
            sys.stdout.write(f"trial {trial.number}  {trial.values}  {json.dumps(trial.params)}\n")
    elif options.export:
        sys.stdout.write(f"{sweep.export()}\n")
    else:
        run_sweep(sweep, config)
        sys.stdout.write(describe(sweep.folder))
    return ExitCode.OK


def describe(folder: Path) -> str:
    """The answer of a finished sweep in a few lines."""
    content = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    lines = [
        f"trial {one['trial']}: search score {', '.join(f'{v:.4f}' for v in one['values'])}  "
        f"{json.dumps(one['parameters'])}"
        for one in content["best"]
    ]
    for one in content["retrained"]:
        scores = ", ".join(f"{score:.4f}" for score in one["scores"])
        lines.append(
            f"trial {one['trial']} again with new seeds: {scores}; expect {one['expected']:.4f}"
        )
    return "\n".join([*lines, f"selected on {content['selected_on']}", f"sweep   {folder}", ""])
