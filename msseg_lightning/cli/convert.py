"""Write a data set in the raw format of nnU-Net v2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg convert nnUNet_raw/Dataset501_MSSEG2 read=msseg2 read.root=/data/msseg2 fold=0
  msseg convert nnUNet_raw/Dataset502_Tiny read=msseg2 read.root=cohorts/tiny \\
        split=file split.path=cohorts/tiny/split.json

Pairs of training and validation go to imagesTr and labelsTr, those that are held out to imagesTs
and labelsTs; a case has two channels, the baseline and the follow-up FLAIR, both on one grid.
The same settings of split and fold as for `msseg train` give the same patients, so that nnU-Net's
masks can be compared with this package's systems: docs/comparing.md has all commands.
exit codes: 0 written, 2 wrong settings, 3 a pair was refused
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Export the labelled pairs of a data set."""
    parser = argparse.ArgumentParser(
        prog="msseg convert",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="named DatasetNNN_Name")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="read=..., split=..., fold=0"
    )
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.read.nifti import gate_options
    from msseg_lightning.read.reader import read_subjects
    from msseg_lightning.run.assemble.system import instantiate
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.data.nnunet import export_nnunet
    from msseg_lightning.run.train.experiment import make_split

    config = compose_config(options.overrides)
    subjects = {one.id: one for one in read_subjects(instantiate(config["read"])) if one.labelled}
    split = make_split(config, subjects)
    reading = gate_options(config["data"]["reading"])
    written = export_nnunet(list(subjects.values()), split, options.folder, reading)
    sys.stdout.write(
        f"{len(split.train) + len(split.val)} pairs to train on, {len(split.test)} held out\n"
        f"{written[-1]}\n"
    )
    return ExitCode.OK
