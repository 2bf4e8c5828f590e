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
from msseg_lightning.core.volume import Kind
from msseg_lightning.run.predict.trained import stored_config, weights_hash


def write_prediction(
    prediction: Prediction,
    mask: Path,
    probability: Path | None,
    record: Mapping[str, Any],
    uncertainty: Path | None = None,
    steps: bool = False,
) -> None:
    """Write the mask, the maps that are asked for and exist, and the side-car beside the mask.

    Args:
        prediction: of one pair.
        mask: the file.
        probability: where its map is written.
        record: of the side-car.
        uncertainty: where the map of its spread is written.
        steps: write the maps of its steps too, see ``step_file``.

    Raises:
        MssegError: the map is not finite (exit 7), or the map of a step would overwrite a file of
            somebody else (exit 2); nothing is written then.
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
    wanted = ((probability, prediction.probability), (uncertainty, prediction.spread))
    maps = [(file, data) for file, data in wanted if file is not None and data is not None]
    kept = dict(prediction.steps) if steps else {}
    names = {name: step_file(mask, name) for name in kept}
    refuse_foreign_files([(mask, *names.values())])
    kinds: dict[str, Kind] = {
        name: "mask" if data.dtype == np.uint8 else "image" for name, data in kept.items()
    }
    maps += [(file, kept[name]) for name, file in names.items()]
    files = [mask, *(file for file, _ in maps)]
    # first: what a killed command leaves is recognised as this package's own
    write_record(side_car_file(mask), {**_OURS, WRITTEN: {file.name: None for file in files}})
    write_volume(mask, prediction.mask, prediction.native, "mask")
    for file, data in maps:
        file.parent.mkdir(exist_ok=True)
        kind: Kind = "mask" if data.dtype == np.uint8 else "probability"
        write_volume(file, data, prediction.native, kind)
    written = {file.name: sha256_file(file) for file in files}
    told = {STEPS: list(kinds.items())} if kinds else {}
    write_record(side_car_file(mask), {**_OURS, **record, **told, WRITTEN: written})


_OURS = {"written_by": "msseg predict"}
WRITTEN = "files"
"""Key of the side-car: name -> SHA-256 of mask and map; null while they are being written."""


MAP = "probability_map"
"""Key of the side-car: whether the system gives a map beside its mask."""


STEPS = "steps"
"""Key of the side-car: name and kind of every step, in order; folder of their maps."""


def step_file(mask: Path, name: str) -> Path:
    """The map of a step of a system of rules: ``steps/<stem>_<name>.nii.gz``."""
    stem = mask.name.removesuffix(".gz").removesuffix(".nii")
    return mask.parent / STEPS / f"{stem}_{name}.nii.gz"


def step_files(mask: Path) -> dict[str, tuple[Path, Kind]]:
    """Map and kind of the steps that were written with a mask, by name and in order."""
    told = read_side_car(mask).get(STEPS, [])
    return {name: (step_file(mask, name), kind) for name, kind in told}


def uncertainty_file(mask: Path) -> Path:
    """The uncertainty map beside a mask: ``<stem>_uncertainty.nii.gz``."""
    stem = mask.name.removesuffix(".gz").removesuffix(".nii")
    return mask.with_name(f"{stem}_uncertainty.nii.gz")


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
    masks: Sequence[tuple[Path, *tuple[Path | None, ...]]], inputs: Iterable[Path] = ()
) -> None:
    """Masks, maps and their side-cars are new files, or those of an earlier prediction.

    Args:
        masks: mask and, where wanted, maps of every pair.
        inputs: files that are read.

    Raises:
        MssegError: with every file that would be overwritten (exit 2).
    """
    outputs: list[tuple[Path, IsOwnFile]] = []
    for mask, *maps in masks:

        def ours(file: Path, mask: Path = mask) -> bool:
            written = read_side_car(mask).get(WRITTEN, {})
            if file.name not in written:
                return False
            return written[file.name] is None or written[file.name] == sha256_file(file)

        def is_side_car(_: Path, mask: Path = mask) -> bool:
            return bool(read_side_car(mask))

        outputs.append((mask, ours))
        outputs += [(file, ours) for file in maps if file is not None]
        outputs.append((side_car_file(mask), is_side_car))
    refuse_overwrites(outputs, inputs)


def side_car(prediction: Prediction, model: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """What a reader of the mask must know; nothing of the patient."""
    found = {
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
    if prediction.spread is not None:
        inside = prediction.spread[prediction.mask != 0]
        found["uncertainty"] = {
            "is": "standard deviation of the probabilities of members, views, flips or passes",
            "mean_in_mask": round(float(inside.mean()), 4) if inside.size else None,
        }
    return found


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
    outputs: Sequence[Path],
    inputs: Iterable[Path],
    probability: Path | None = None,
    uncertainty: Path | None = None,
) -> None:
    """Every output is a NIfTI file of its own, no input, and no file of somebody else.

    Args:
        outputs: masks.
        inputs: files that are read.
        probability: map that belongs to the only mask.
        uncertainty: likewise.

    Raises:
        MssegError: with every output that is not (exit 2); nothing has been read or written.
    """
    files = [*outputs, *(file for file in (probability, uncertainty) if file is not None)]
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
    refuse_foreign_files([(output, probability, uncertainty) for output in outputs], inputs)
