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
  msseg export runs/pre_unet/msseg2-fold0-seed0 --onnx pre_unet_onnx
  msseg predict pre_unet.zip --baseline B.nii.gz --followup F.nii.gz --output new.nii.gz

The zip file holds weights, settings and cards of all stages and members, the scores of the
held-out pairs as text, and the SHA-256 of every file. It holds no paths, scans or names of
patients, and gives the same masks as the run. `msseg predict` refuses any other content.
--onnx writes each network as NAME.onnx and what surrounds it as onnx.json; ONNX Runtime must give
the same probabilities within 1e-4. It needs pip install 'msseg-lightning[onnx]'.
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
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="folder of ONNX files to write")
    parser.add_argument(
        "--licence", default="not stated", metavar="TEXT", help="licence of the weights"
    )
    parser.add_argument("--mlruns", default="mlruns", help="tracking folder, for run ids")
    options = parser.parse_args(arguments)
    if options.zip is None and options.onnx is None:
        parser.error("say what to write: --zip FILE, --onnx FOLDER or both")

    from msseg_lightning.run.predict.model_zip import opened_model

    with opened_model(options.model, options.mlruns) as model:
        if options.zip is not None:
            sys.stdout.write(_as_zip(model, options.zip, options.licence))
        if options.onnx is not None:
            sys.stdout.write(_as_onnx(model, options.onnx))
    return ExitCode.OK


def _as_zip(model: Path, file: Path, licence: str) -> str:
    from msseg_lightning.cli.train import describe
    from msseg_lightning.run.predict.model_zip import write_zip
    from msseg_lightning.run.predict.trained import run_of

    run = run_of(model)
    scored = run is not None and run.scores_file.exists()
    results = describe(run.scores()["summary"]) if run is not None and scored else ""
    contents = write_zip(model, file, licence, results)
    size = file.stat().st_size / 1e6
    return f"{file}: {contents['system']}, {len(contents['files'])} files, {size:.1f} MB\n"


def _as_onnx(model: Path, folder: Path) -> str:
    from msseg_lightning.run.predict.onnx_networks import export_networks

    networks = export_networks(model, folder)["networks"]
    return "".join(
        f"{folder / facts['file']}: as PyTorch within {facts['largest_difference']:.1e}\n"
        for facts in networks.values()
    )
