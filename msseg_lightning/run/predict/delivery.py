"""Files of a prediction: mask, map and side-car, what they may overwrite, and tables of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msseg_lightning import __version__
from msseg_lightning.core.files import DamagedFileError, read_record, sha256_file, write_record
from msseg_lightning.core.outputs import IsOwnFile, refuse_overwrites
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LongitudinalSubject
from msseg_lightning.run.predict.trained import stored_config, weights_hash


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
    values = prediction.probability
    files = [mask] if probability is None or values is None else [mask, probability]
    # first: what a killed command leaves is recognised as this package's own
    write_record(side_car_file(mask), {**_OURS, WRITTEN: {file.name: None for file in files}})
    write_volume(mask, prediction.mask, prediction.native, "mask")
    if probability is not None and values is not None:
        write_volume(probability, values, prediction.native, "probability")
    written = {file.name: sha256_file(file) for file in files}
    write_record(side_car_file(mask), {**_OURS, **record, WRITTEN: written})


_OURS = {"written_by": "msseg predict"}
WRITTEN = "files"
"""Key of the side-car: name -> SHA-256 of mask and map; null while they are being written."""


MAP = "probability_map"
"""Key of the side-car: whether the system gives a map beside its mask."""


def side_car_file(mask: Path) -> Path:
    """The JSON file beside a mask: ``<stem>_msseg.json``, a name that no BIDS side-car has."""
    return mask.with_name(mask.name.removesuffix(".gz").removesuffix(".nii") + "_msseg.json")


def read_side_car(mask: Path) -> dict[str, Any]:
    """What lies beside a mask; empty where that is nothing of this package, or damaged."""
    try:
        record = read_record(side_car_file(mask), {WRITTEN: dict})
    except (OSError, DamagedFileError):
        return {}
    return record if record.items() >= _OURS.items() else {}


def refuse_foreign_files(
    masks: Sequence[tuple[Path, Path | None]], inputs: Iterable[Path] = ()
) -> None:
    """Masks, maps and their side-cars are new files, or those of an earlier prediction.

    Args:
        masks: mask and, where wanted, probability map of every pair.
        inputs: files that are read.

    Raises:
        MssegError: with every file that would be overwritten (exit 2).
    """
    outputs: list[tuple[Path, IsOwnFile]] = []
    for mask, probability in masks:

        def ours(file: Path, mask: Path = mask) -> bool:
            written = read_side_car(mask).get(WRITTEN, {})
            if file.name not in written:
                return False
            return written[file.name] is None or written[file.name] == sha256_file(file)

        def is_side_car(_: Path, mask: Path = mask) -> bool:
            return bool(read_side_car(mask))

        outputs.append((mask, ours))
        if probability is not None:
            outputs.append((probability, ours))
        outputs.append((side_car_file(mask), is_side_car))
    refuse_overwrites(outputs, inputs)


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
        MAP: prediction.probability is not None,
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


def read_pairs(
    table: Path, folder: Path | None = None
) -> list[tuple[LongitudinalSubject, Path | None]]:
    """Rows of a CSV with ``id, baseline_flair, followup_flair``; if wanted ``brain``, ``output``.

    An output counts from the table's folder, as scans do, and leads below it or below ``folder``.
    New folders are made below ``folder`` only.

    Raises:
        MssegError: the table is refused (exit 3); an output leads elsewhere, is no NIfTI file, or
            would overwrite a file of any row or the output of another one (exit 2).
    """
    from msseg_lightning.read.reader import read_subjects
    from msseg_lightning.read.table import TableReader

    reader = TableReader(table)
    subjects = read_subjects(reader)  # refuses what is no table
    outputs = {name: table.parent / output for name, output in reader.outputs().items()}
    problems = []
    for output in outputs.values():
        places = [place.resolve() for place in (table.parent, folder) if place is not None]
        inside = [output.resolve().is_relative_to(place) for place in places]
        new_folder = not output.parent.is_dir() and not (len(inside) == 2 and inside[1])
        if not any(inside) or new_folder:
            problems.append(
                Problem(
                    "predict.output_place",
                    "the folder of the output is not there"
                    if any(inside)
                    else "the output leads out of the table's folder and the output folder",
                    file=table.name,
                    field="output",
                    found=str(output),
                    expected=" or ".join(f"a file below {place}" for place in places),
                    remedy="empty the cell, or correct it; --folder FOLDER names a folder below "
                    "which outputs may lie and new folders are made",
                    exit_code=ExitCode.CONFIG,
                )
            )
    if problems:
        raise MssegError(problems)
    inputs = [table, *(file for subject in subjects for file in subject.files().values())]
    check_outputs(list(outputs.values()), inputs)
    return [(subject, outputs.get(subject.id)) for subject in subjects]


def check_outputs(
    outputs: Sequence[Path], inputs: Iterable[Path], probability: Path | None = None
) -> None:
    """Every output is a NIfTI file of its own, no input, and no file of somebody else.

    Args:
        outputs: masks.
        inputs: files that are read.
        probability: map that belongs to the only mask.

    Raises:
        MssegError: with every output that is not (exit 2); nothing has been read or written.
    """
    files = [*outputs, *([] if probability is None else [probability])]
    problems = [
        Problem(
            "predict.format",
            "masks are written as NIfTI",
            file=output,
            field="output",
            expected="a name that ends in .nii.gz or .nii",
            remedy=f"use {output.name}.nii.gz",
            exit_code=ExitCode.CONFIG,
        )
        for output in files
        if not output.name.endswith((".nii", ".nii.gz"))
    ]
    if problems:
        raise MssegError(problems)
    refuse_foreign_files([(output, probability) for output in outputs], inputs)
