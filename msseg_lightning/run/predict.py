"""Apply a system to pairs and deliver masks on the patients' own grids."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msseg_lightning import __version__
from msseg_lightning.core.files import write_record
from msseg_lightning.core.method import Method
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LongitudinalSubject
from msseg_lightning.run.stored import stored_config, weights_hash


def predict_to_file(
    method: Method, subject: LongitudinalSubject, folder: Path, model: Path
) -> Prediction:
    """Predict one pair and write ``<id>.nii.gz``, ``<id>_probability.nii.gz`` and a side-car."""
    prediction = method.predict(subject)
    probability = folder / f"{subject.id}_probability.nii.gz"
    write_prediction(
        prediction,
        folder / f"{subject.id}.nii.gz",
        probability if prediction.probability is not None else None,
        side_car(prediction, model),
    )
    return prediction


def write_prediction(
    prediction: Prediction, mask: Path, probability: Path | None, record: Mapping[str, Any]
) -> None:
    """Write the mask, the map if asked and there is one, and the side-car beside the mask.

    Raises:
        MssegError: the map is not finite (exit 7); nothing is written then.
    """
    from msseg_lightning.read.nifti import write_volume

    if prediction.probability is not None and not np.isfinite(prediction.probability).all():
        raise MssegError(
            Problem(
                "predict.not_finite",
                "the probability map holds NaN or infinity; no mask was written",
                file=mask.name,
                remedy="check the scan's intensities and the model's weights",
                exit_code=ExitCode.NUMERICAL,
            )
        )
    write_volume(mask, prediction.mask, prediction.native, "mask")
    if probability is not None and prediction.probability is not None:
        write_volume(probability, prediction.probability, prediction.native, "probability")
    write_record(side_car_file(mask), record)  # last: where it lies, the others do


def side_car_file(mask: Path) -> Path:
    """The JSON file beside a mask."""
    return mask.with_name(mask.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def side_car(prediction: Prediction, model: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """What a reader of the mask must know; nothing of the patient."""
    return {
        "system": stored_config(model).get("name"),
        "model_sha256": weights_hash(model),
        "settings": list(settings),
        "version": __version__,
        "new_lesion_voxels": int(prediction.mask.sum()),
        "new_lesion_volume_mm3": round(
            float(prediction.mask.sum()) * prediction.native.grid.voxel_volume_mm3, 3
        ),
        "warnings": list(prediction.warnings),
        "use": "research use only; not a medical device",
    }


def pair_subject(
    name: str, baseline: Path, followup: Path, brain: Path | None = None
) -> LongitudinalSubject:
    """A pair given by its files, the brain mask on the follow-up's grid."""
    return LongitudinalSubject(
        id=name,
        patient=name,
        images={BASELINE: baseline, FOLLOWUP: followup},
        masks={} if brain is None else {BRAIN: brain},
    )


def read_pairs(table: Path) -> list[tuple[LongitudinalSubject, Path | None]]:
    """Rows of a CSV with ``id, baseline_flair, followup_flair``; if wanted ``brain``, ``output``.

    Raises:
        MssegError: the table is refused (exit 3), or an output would overwrite a scan of any row
            or the output of another one (exit 2).
    """
    from msseg_lightning.read.table import TableReader

    subjects = TableReader(table).subjects()  # refuses what is no table
    outputs: dict[str, Path] = {}
    with table.open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream):
            if row.get("output"):
                outputs[row.get("id", "")] = Path(row["output"])
    inputs = [file for subject in subjects for file in subject.files().values()]
    check_outputs(list(outputs.values()), inputs)
    return [(subject, outputs.get(subject.id)) for subject in subjects]


def check_outputs(outputs: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Every output is a NIfTI file of its own, and no input.

    Raises:
        MssegError: with every output that is not (exit 2); nothing has been read or written.
    """
    scans = {file.resolve() for file in inputs}
    seen: set[Path] = set()
    problems = []
    for output in outputs:
        place = output.resolve()
        if place in scans or place in seen:
            what = "an input" if place in scans else "another output"
            problems.append(
                Problem(
                    "predict.overwrites",
                    f"the output would overwrite {what}",
                    file=output,
                    field="output",
                    remedy="choose another file name",
                    exit_code=ExitCode.CONFIG,
                )
            )
        elif not output.name.endswith((".nii", ".nii.gz")):
            problems.append(
                Problem(
                    "predict.format",
                    "masks are written as NIfTI",
                    file=output,
                    field="output",
                    expected="a name that ends in .nii.gz or .nii",
                    remedy=f"use {output.name}.nii.gz",
                    exit_code=ExitCode.CONFIG,
                )
            )
        seen.add(place)
    if problems:
        raise MssegError(problems)
