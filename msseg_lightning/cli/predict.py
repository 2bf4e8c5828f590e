"""Apply a trained system to new pairs of scans."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.core.progress import stage
from msseg_lightning.run.shard import SHARD_HELP, Shard

EXAMPLES = """\
examples
  msseg predict --baseline B.nii.gz --followup F.nii.gz --output new.nii.gz
      with the trained system that comes with this package, for any two FLAIR scans of a patient
  msseg predict runs/pre_unet/msseg2-fold0-seed0 \\
      --baseline B.nii.gz --followup F.nii.gz --output new.nii.gz --probability p.nii.gz
  msseg predict RUN -t1 B.nii.gz -t2 F.nii.gz -o new.nii.gz --brain brain_of_F.nii.gz
  msseg predict 3f2a...e1 -t1 B.nii.gz -t2 F.nii.gz -o new.nii.gz    an MLflow run id
  msseg predict models:/pre_unet@champion --table pairs.csv --folder predictions
  msseg predict system.zip -t1 B.nii.gz -t2 F.nii.gz -o new.nii.gz   a file of `msseg export`
  msseg predict runs/pre_unet/msseg2-fold0-seed0 --folder out read=open_ms read.root=/data/open_ms
      every pair of a data set in any layout; scored where it has references
  msseg predict RUN -t1 B.nii.gz -t2 F.nii.gz -o new.nii.gz infer.overlap=0.5
      with one changed setting; scans that were refused and that you have checked are accepted
      with data.reading.NAME=VALUE (`msseg check --help` lists them)
  msseg predict RUN --folder out read=msseg2 read.root=/data/cohort --shard 1/4
      every fourth pair; the four parts may run on different machines that share the folder
  msseg predict RUN -t1 B.nii.gz -t2 F.nii.gz -o new.nii.gz --uncertainty u.nii.gz
      also the standard deviation of the outputs of members, views, flips or passes; for --table
      and data sets without a file name, NAME_uncertainty.nii.gz beside every mask
  msseg predict RUN -t1 B.nii.gz -t2 F.nii.gz -o new.nii.gz --mirror all --threshold 0.3
      averaged over mirrored copies, with another threshold; the JSON file beside the mask has both
  msseg predict RUN --folder /data/ds/derivatives/msseg read=bids read.root=/data/ds
      as BIDS derivatives: sub-X/ses-B/anat/sub-X_ses-B_desc-newlesions_mask.nii.gz

pairs.csv has the columns id, baseline_flair, followup_flair and optionally brain and output.
A brain mask is on the grid of the follow-up scan, before any registration. If you have a good
one, give it: otherwise the system extracts the brain itself, and remaining parts of the skull may
be marked as lesions. The JSON file records whether it was used; systems that use no brain mask,
or make their own as in their paper, ignore it.
A pair that is refused is listed and skipped; the same command again predicts what is missing.
The mask has the grid of the follow-up scan (the common grid, if the pair shares one);
NAME_msseg.json beside it records the model, its hash and all warnings. Only files of earlier
predictions are overwritten. Paths in the column output are relative to the table's folder and must
be below it or below --folder; new folders are created below --folder only.
Research use only; not a medical device.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Predict one pair, a table of pairs or a data set."""
    parser = argparse.ArgumentParser(
        prog="msseg predict",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        help="run folder, zip file of `msseg export`, MLflow run id or models:/NAME@ALIAS; the "
        "trained system in this package where none is given",
    )
    parser.add_argument("-t1", "--baseline", type=Path, help="FLAIR of the first visit")
    parser.add_argument("-t2", "--followup", type=Path, help="FLAIR of the second visit")
    parser.add_argument(
        "--brain",
        type=Path,
        metavar="FILE",
        help="brain mask (1 in the brain, 0 elsewhere) on the grid of the FOLLOW-UP, for both "
        "visits: taken instead of the system's own brain extraction (column brain of a table)",
    )
    parser.add_argument("-o", "--output", type=Path, help="mask of new lesions to write")
    parser.add_argument("--probability", type=Path, help="also write the probability map")
    parser.add_argument(
        "--uncertainty",
        nargs="?",
        const="",
        metavar="FILE",
        help="also write the uncertainty map; the name is given for one pair only",
    )
    parser.add_argument(
        "--mirror",
        choices=("left-right", "all"),
        help="average with the predictions of mirrored scans: 2 copies, or all 8",
    )
    parser.add_argument(
        "--threshold", metavar="P", help="probability above which a voxel is a lesion, 0 to 1"
    )
    parser.add_argument("--table", type=Path, help="CSV of many pairs")
    parser.add_argument(
        "--folder", type=Path, default=Path("predictions"), help="for --table and data sets"
    )
    parser.add_argument(
        "--include-training",
        action="store_true",
        help="also predict pairs of a data set that the system was trained on",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, for --table and data sets"
    )
    parser.add_argument(
        "--operating-point",
        choices=("auto", "off"),
        default="auto",
        help="auto: use the point that `msseg tune` chose for this system; off, or any "
        "postprocess.* setting: the system's own rules",
    )
    parser.add_argument("--shard", type=Shard.parse, metavar="I/N", help=SHARD_HELP)
    parser.add_argument("--mlruns", default="mlruns", help="tracking folder, for run ids")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="a data set (read=... read.root=...); also settings of infer, postprocess, data, "
        "paths and trainer, for one pair or many",
    )
    options = parser.parse_intermixed_args(_uncertainty_first(arguments))
    if options.model is not None and "=" in options.model and not Path(options.model).exists():
        options.settings, options.model = [options.model, *options.settings], None
    switches = {"mirror": options.mirror, "threshold": options.threshold}
    options.settings += [f"{name}={value}" for name, value in switches.items() if value is not None]
    single = (options.baseline, options.followup, options.output)
    data_set = any(item.startswith(("read=", "read.")) for item in options.settings)
    many = "--table" if options.table is not None else "a data set" if data_set else None
    if many and options.output is not None and not (options.baseline or options.followup):
        parser.error(f"--output is the mask of one pair; for {many} give --folder FOLDER")
    sources = [any(single), options.table is not None, data_set]
    if sources.count(True) != 1 or (any(single) and not all(single)):
        parser.error(
            "say what to predict, one of: --baseline, --followup and --output; --table; a data "
            "set as read=... read.root=..."
        )
    if options.brain is not None and not all(single):
        parser.error("--brain goes with --baseline and --followup; a table has a column brain")

    if options.uncertainty is not None and bool(options.uncertainty) != all(single):
        parser.error(
            "--uncertainty names a file for one pair; for --table and data sets it stands alone, "
            "and maps are written beside the masks"
        )
    uncertainty = Path(options.uncertainty) if options.uncertainty else None

    from msseg_lightning.run.predict import prediction_files as predict
    from msseg_lightning.run.predict.model_zip import opened_model

    if all(single):  # before anything is loaded
        inputs = [options.baseline, options.followup, options.brain]
        given = [file for file in inputs if file is not None]
        predict.check_outputs([options.output], given, options.probability, uncertainty)
    if options.model is None:
        from msseg_lightning.run.predict.packaged import introduction, packaged_model

        options.model = str(packaged_model())
        sys.stdout.write(f"{introduction()}\n")
    with opened_model(options.model, options.mlruns) as model:
        return _predict(model, options, uncertainty)


def _predict(model: Path, options: argparse.Namespace, uncertainty: Path | None) -> ExitCode:
    """Predict with a model folder, which may be a temporary one."""
    from msseg_lightning.run.predict import prediction_files as predict

    places = [options.output, options.probability, uncertainty, options.folder]
    predict.refuse_in_run(model, [place for place in places if place is not None])
    if options.output is None:
        return predict_many(model, options)
    from msseg_lightning.run.predict.data_set import predict_pair

    subject = predict.pair_subject("pair", options.baseline, options.followup, options.brain)
    with stage(f"preparing both scans and applying {model}"):
        record = predict_pair(
            model,
            subject,
            options.output,
            options.probability,
            options.settings,
            uncertainty,
            options.operating_point,
        )
    sys.stdout.write(
        f"{options.output}: {record['new_lesion_volume_mm3']} mm3 of new lesions in "
        f"{record['new_lesion_voxels']} voxels\n"
    )
    if record.get("operating_point"):
        sys.stdout.write(f"operating point: {point_words(record['operating_point'])}\n")
    for text in record["warnings"]:
        if text.startswith("unlike the pairs"):
            sys.stderr.write(f"warning: {text}\n")
    return ExitCode.OK


def predict_many(model: Path, options: argparse.Namespace) -> ExitCode:
    """Predict every pair of a table or data set; refused pairs are listed."""
    from msseg_lightning.cli.train import describe
    from msseg_lightning.run.predict.data_set import predict_data_set, predict_table

    where = {"shard": options.shard, "executor": max(options.workers, 1)}
    where["uncertainty"] = options.uncertainty is not None
    where["use_point"] = options.operating_point
    if options.table is not None:
        applied = predict_table(model, options.table, options.folder, options.settings, **where)
    else:
        applied = predict_data_set(
            model, options.settings, options.folder, options.include_training, **where
        )
    log = logging.getLogger("msseg")
    for name, error in applied.refused.items():
        for problem in error.problems:
            log.error("%s: %s", name, problem)
    total = len(applied.predicted) + len(applied.refused)
    part = f" (part {options.shard} of {applied.total})" if options.shard else ""
    sys.stdout.write(
        f"{len(applied.predicted)} of {total} pairs predicted in {options.folder}{part}\n"
    )
    sys.stdout.write(describe(applied.summary))
    if applied.operating_point:
        sys.stdout.write(f"operating point: {point_words(applied.operating_point)}\n")
    if applied.refused:
        sys.stderr.write(f"left out: {', '.join(applied.refused)}; the same command tries again\n")
        return ExitCode.PARTIAL
    return ExitCode.OK


def point_words(told: Mapping[str, Any]) -> str:
    """What a side-car or a table of scores says of the operating point, in one line."""
    words = str(told["is"]) if told["used"] else f"not used, {told['why']}"
    chosen = len(told.get("chosen_on_scored", ()))
    return f"{words}; CHOSEN ON {chosen} OF THESE PAIRS, no test" if chosen else words


def _uncertainty_first(arguments: Sequence[str]) -> list[str]:
    """Move ``--uncertainty`` without a file name to the front of the settings."""
    words = list(arguments)
    for place, word in enumerate(words[:-1]):
        following = words[place + 1]
        if word == "--uncertainty" and "=" in following and not following.endswith((".nii", ".gz")):
            words[place] = "--uncertainty="
    return words
