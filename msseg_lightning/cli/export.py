"""Write a trained system as one zip file, or its networks as ONNX."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg export runs/pre_unet/msseg2-fold0-seed0 --zip pre_unet.zip --licence CC-BY-4.0
  msseg predict pre_unet.zip --baseline B.nii.gz --followup F.nii.gz --output new.nii.gz

The zip file holds weights, settings and cards of all stages and members, the scores of the
held-out pairs as text, and the SHA-256 of every file. It holds no paths, scans or names of
patients, and gives the same masks as the run. `msseg predict` refuses any other content.
The licence of the weights is yours to state: that of the scans they were trained on may bind you.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Export a trained system."""
    parser = argparse.ArgumentParser(
        prog="msseg export",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="run folder, MLflow run id, models:/NAME@ALIAS or zip file")
    parser.add_argument("--zip", type=Path, metavar="FILE", help="zip file to write")
    parser.add_argument(
        "--licence", default="not stated", metavar="TEXT", help="licence of the weights"
    )
    parser.add_argument("--mlruns", default="mlruns", help="tracking folder, for run ids")
    options = parser.parse_args(arguments)
    if options.zip is None:
        parser.error("say what to write: --zip FILE")

    from msseg_lightning.cli.train import describe
    from msseg_lightning.run.predict.model_zip import opened_model, write_zip
    from msseg_lightning.run.predict.trained import run_of

    with opened_model(options.model, options.mlruns) as model:
        run = run_of(model)
        scored = run is not None and run.scores_file.exists()
        results = describe(run.scores()["summary"]) if run is not None and scored else ""
        contents = write_zip(model, options.zip, options.licence, results)
    size = options.zip.stat().st_size / 1e6
    sys.stdout.write(
        f"{options.zip}: {contents['system']}, {len(contents['files'])} files, {size:.1f} MB\n"
    )
    return ExitCode.OK
