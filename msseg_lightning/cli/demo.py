"""Run all steps on a simulated cohort: simulate, train, predict, score, report and track."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.core.wording import program

EXAMPLES = """\
examples
  msseg demo                            a small pre_unet on twelve simulated patients, minutes
  msseg demo train.steps=1200           longer, better
  msseg demo --experiment segresnet_shallow
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Run the demonstration in the current folder."""
    parser = argparse.ArgumentParser(
        prog="msseg demo",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--experiment", default="pre_unet", help="of `msseg list`, or a file")
    parser.add_argument("--preset", default="small", help="of `msseg simulate`")
    parser.add_argument("--cohort", type=Path, help="where it lies; default cohorts/PRESET")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.cli import evaluate, predict, simulate, train
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.data.simulate import load_recipe
    from msseg_lightning.run.train.folds_and_seeds import is_multirun

    began = time.monotonic()
    cohort = options.cohort or Path("cohorts") / options.preset
    workers = min(4, os.cpu_count() or 1)
    settings = [
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
        "split.validation=0.25",
        "size=cpu",
        "track=mlflow_plain_ids",
        *options.overrides,
    ]
    load_recipe(options.preset)  # what is misspelt is refused before anything is said or written
    if not is_multirun(settings):
        compose_config(settings, options.experiment)
    say(f"1  a cohort whose every lesion is known -> {cohort}")
    simulate.main([str(cohort), f"preset={options.preset}", f"workers={workers}"])
    say(f"2  {options.experiment} at CPU size: train, predict, score, report, track")
    code = train.main([options.experiment, *settings])
    pair = next(iter(json.loads((cohort / "split.json").read_text(encoding="utf-8"))["test"]))
    scans = [cohort / pair / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    output = Path("predictions") / f"demo_{pair}.nii.gz"
    output.parent.mkdir(exist_ok=True)
    say(f"3  the trained system in this package, on held-out pair {pair}")
    pair_words = ["-t1", str(scans[0]), "-t2", str(scans[1]), "-o", str(output)]
    predict.main([*pair_words, "--brain", str(cohort / pair / "brain_mask.nii.gz")])
    evaluate.main([str(output), str(cohort / pair / "ground_truth.nii.gz")])
    say(f"done in {(time.monotonic() - began) / 60:.1f} minutes. Open the report. Next:")
    for line in ("ui", f"show {options.experiment}", "check --layout", "--help"):
        say(f"  {program()} {line}")
    return code


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
