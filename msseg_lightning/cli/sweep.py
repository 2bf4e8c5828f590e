"""Search hyperparameters; any number of processes can share one search."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg sweep pre_unet read.root=/data/msseg2                       conf/search/default.yaml
  msseg sweep pre_unet search=optimiser read.root=/data/msseg2      another file of conf/search
  msseg sweep pre_unet search.trials=12 'search.folds=[0,1]' read.root=cohort size=cpu
  msseg sweep pre_unet 'search.space.loss={type: categorical, choices: [dice, dice_focal_deep]}'
  msseg sweep pre_unet name=lr store=postgresql://user@host/optuna ...           many machines
  msseg sweep pre_unet name=lr --status           also --best, --export; at any time
  msseg sweep --status                            all searches in sweeps/

The same command again continues; the same command in another shell or on another machine (with
store=URL) joins. A trial is trained on one fold after the other and may be pruned between them;
the best trials are trained again with new seeds. Candidates are compared on the held-out pairs of
these folds, so the score of the winner is not a test result: keep other patients for a test.
Files are in sweeps/<name>/: study.db, trials/, trials.csv, best.json, plots/, report.html.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Run, join or inspect a sweep."""
    parser = argparse.ArgumentParser(
        prog="msseg sweep",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", nargs="?", help="a name from `msseg list`, or a file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="see the examples"
    )
    parser.add_argument(
        "--status", action="store_true", help="count trials and leave; without a name, of all"
    )
    parser.add_argument("--best", action="store_true", help="print the best trials and leave")
    parser.add_argument(
        "--export", action="store_true", help="write tables, plots and the report and leave"
    )
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.run.sweep import command as sweep_command
    from msseg_lightning.run.sweep.result import goal_text, status, sweep_result

    experiment, overrides = options.experiment, list(options.overrides)
    if experiment is not None and "=" in experiment:  # a setting, and no experiment
        experiment, overrides = None, [experiment, *overrides]
    words = sweep_command.SweepArguments.of(experiment or "", overrides)
    if experiment is None and words.name is None:
        if not options.status:
            parser.error("name an experiment, or a sweep: name=NAME")
        sys.stdout.write(sweep_command.describe_sweeps(words.sweeps_folder()))
    elif options.status:
        sys.stdout.write(json.dumps(status(sweep_command.find_study(words)), indent=2) + "\n")
    elif options.best:
        study = sweep_command.find_study(words)
        for trial in sweep_result(study).best[:5]:
            sys.stdout.write(f"trial {trial.number}  {goal_text(study, trial)}\n")
    elif options.export:
        study = sweep_command.find_study(words)
        sweep_command.write_result(study)
        sys.stdout.write(f"{study.folder}\n")
    else:
        sweep, config = sweep_command.open_sweep(words)
        found = sweep_command.run_sweep(sweep, config)
        sys.stdout.write("\n".join(found.paragraphs()) + "\n")
        sys.stdout.write(f"\nsweep   {sweep.folder}\nreport  {sweep.folder / 'report.html'}\n")
    return ExitCode.OK
