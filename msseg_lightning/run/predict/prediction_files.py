"""Files of a prediction (mask, maps, side-car) and tables of pairs to predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning import __version__
from msseg_lightning.core.files import DamagedFileError, read_record, sha256_file, write_record
from msseg_lightning.core.outputs import IsOwnFile, refuse_overwrites
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LongitudinalSubject
from msseg_lightning.core.volume import Kind
from msseg_lightning.run.predict.packaged import name_if_packaged
from msseg_lightning.run.predict.trained import stored_config, weights_hash


def write_prediction(
    prediction: Prediction,
    mask: Path,
    probability: Path | None,
    record: Mapping[str, Any],
    uncertainty: Path | None = None,
    steps: bool = False,
) -> None:
    """Write the mask, the requested maps that exist, and the side-car beside the mask.

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
    maps: list[tuple[Path, NDArray[np.generic]]] = [
        (file, data) for file, data in wanted if file is not None and data is not None
    ]
    kept = dict(prediction.steps) if steps else {}
    names = {name: step_file(mask, name) for name in kept}
    refuse_foreign_files([(mask, *names.values())])
    kinds: dict[str, Kind] = {
        name: "mask" if data.dtype == np.uint8 else "image" for name, data in kept.items()
    }
    maps += [(file, kept[name]) for name, file in names.items()]
    files = [mask, *(file for file, _ in maps)]
    # written first, so that files of a killed command are recognised as this package's own
    write_record(side_car_file(mask), {**_MARKER, FILES_KEY: {file.name: None for file in files}})
    write_volume(mask, prediction.mask, prediction.native, "mask")
    for file, data in maps:
        file.parent.mkdir(exist_ok=True)
        kind: Kind = "mask" if data.dtype == np.uint8 else "probability"
        write_volume(file, data, prediction.native, kind)
    written = {file.name: sha256_file(file) for file in files}
    told = {STEPS_KEY: list(kinds.items())} if kinds else {}
    write_record(side_car_file(mask), {**_MARKER, **record, **told, FILES_KEY: written})


_MARKER = {"written_by": "msseg predict"}
FILES_KEY = "files"
"""Key of the side-car: name -> SHA-256 of mask and map; null while they are being written."""


MAP_KEY = "probability_map"
"""Key of the side-car: whether the system outputs a probability map."""


STEPS_KEY = "steps"
"""Key of the side-car: name and kind of every step, in order; folder of their maps."""


def step_file(mask: Path, name: str) -> Path:
    """The map of a step of a system of rules: ``steps/<stem>_<name>.nii.gz``."""
    stem = mask.name.removesuffix(".gz").removesuffix(".nii")
    return mask.parent / STEPS_KEY / f"{stem}_{name}.nii.gz"


def step_files(mask: Path) -> dict[str, tuple[Path, Kind]]:
    """Map and kind of the steps that were written with a mask, by name and in order."""
    told = read_side_car(mask).get(STEPS_KEY, [])
    return {name: (step_file(mask, name), kind) for name, kind in told}


def uncertainty_file(mask: Path) -> Path:
    """File of the uncertainty map beside a mask: ``<stem>_uncertainty.nii.gz``."""
    stem = mask.name.removesuffix(".gz").removesuffix(".nii")
    return mask.with_name(f"{stem}_uncertainty.nii.gz")


def side_car_file(mask: Path) -> Path:
    """The JSON file beside a mask: ``<stem>_msseg.json``, which differs from BIDS side-cars."""
    return mask.with_name(mask.name.removesuffix(".gz").removesuffix(".nii") + "_msseg.json")


def read_side_car(mask: Path) -> dict[str, Any]:
    """Content of the side-car of a mask; empty if it is missing, damaged or of other software."""
    try:
        record = read_record(side_car_file(mask), {FILES_KEY: dict})
    except (OSError, DamagedFileError):
        return {}
    return record if record.items() >= _MARKER.items() else {}


def refuse_foreign_files(
    masks: Sequence[tuple[Path, *tuple[Path | None, ...]]], inputs: Iterable[Path] = ()
) -> None:
    """Check that masks, maps and side-cars are new files or those of an earlier prediction.

    Args:
        masks: mask and requested maps of every pair.
        inputs: files that are read.

    Raises:
        MssegError: with every file that would be overwritten (exit 2).
    """
    outputs: list[tuple[Path, IsOwnFile]] = []
    for mask, *maps in masks:

        def is_own(file: Path, mask: Path = mask) -> bool:
            written = read_side_car(mask).get(FILES_KEY, {})
            if file.name not in written:
                return False
            return written[file.name] is None or written[file.name] == sha256_file(file)

        def is_side_car(_: Path, mask: Path = mask) -> bool:
            return bool(read_side_car(mask))

        outputs.append((mask, is_own))
        outputs += [(file, is_own) for file in maps if file is not None]
        outputs.append((side_car_file(mask), is_side_car))
    refuse_overwrites(outputs, inputs)


def side_car(prediction: Prediction, model: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Content of the side-car: how the mask was made, without data of the patient."""
    weights = weights_hash(model)
    found = {
        "system": stored_config(model).get("name"),
        "packaged_model": name_if_packaged(weights),
        "model_sha256": weights,
        "settings": list(settings),
        "version": __version__,
        "new_lesion_voxels": int(prediction.mask.sum()),
        "new_lesion_volume_mm3": round(
            float(prediction.mask.sum()) * prediction.native.grid.voxel_volume_mm3, 3
        ),
        "warnings": list(prediction.warnings),
        MAP_KEY: prediction.probability is not None,
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
    """A pair from single files; the brain mask is on the grid of the follow-up scan."""
    return LongitudinalSubject(
        id=name,
        patient=name,
        images={BASELINE: baseline, FOLLOWUP: followup},
        masks={} if brain is None else {BRAIN: brain},
    )


def read_pairs(
    table: Path, folder: Path | None = None
) -> list[tuple[LongitudinalSubject, Path | None]]:
    """Pairs of a CSV, and the file of the mask if the table gives one.

    Columns are ``id, baseline_flair, followup_flair`` and, if present, ``brain`` and ``output``.
    Paths of outputs, like those of scans, are relative to the table's folder. An output must be
    below the table's folder or below ``folder``; new folders are created below ``folder`` only.

    Raises:
        MssegError: the table is refused (exit 3); an output is outside of these folders, is not a
            NIfTI file, or would overwrite a file of any row or another output (exit 2).
    """
    from msseg_lightning.read.reader import read_subjects
    from msseg_lightning.read.table import TableReader

    reader = TableReader(table)
    subjects = read_subjects(reader)  # refuses a file that is not a table
    outputs = {name: table.parent / output for name, output in reader.outputs().items()}
    problems = []
    for output in outputs.values():
        folders = [one.resolve() for one in (table.parent, folder) if one is not None]
        inside = [output.resolve().is_relative_to(one) for one in folders]
        new_folder = not output.parent.is_dir() and not (len(inside) == 2 and inside[1])
        if not any(inside) or new_folder:
            problems.append(
                Problem(
                    "predict.output_place",
                    "the folder of the output does not exist"
                    if any(inside)
                    else "the output is outside of the table's folder and the output folder",
                    file=table.name,
                    field="output",
                    found=str(output),
                    expected=" or ".join(f"a file below {one}" for one in folders),
                    remedy="empty the cell, or correct it; --folder FOLDER names a folder below "
                    "which outputs may lie and new folders are created",
                    exit_code=ExitCode.CONFIG,
                )
            )
    if problems:
        raise MssegError(problems)
    inputs = [table, *(file for subject in subjects for file in subject.files().values())]
    check_outputs(list(outputs.values()), inputs)
    return [(subject, outputs.get(subject.id)) for subject in subjects]


def refuse_in_run(model: Path, outputs: Iterable[Path]) -> None:
    """Refuse outputs inside the model folder or the run folder that it belongs to.

    A run keeps the predictions of its held-out pairs there, which its scores are of.

    Raises:
        MssegError: with every such output (exit 2).
    """
    run = model.resolve()
    if run.name == "model" and (run.parent / "run.json").exists():
        run = run.parent
    problems = [
        Problem(
            "predict.in_run",
            "the output lies in the folder of the run that is applied",
            file=output,
            field="output",
            expected=f"a place outside {run.name}",
            remedy="choose another folder, e.g. predictions/ beside runs/",
            exit_code=ExitCode.CONFIG,
        )
        for output in outputs
        if output.resolve().is_relative_to(run)
    ]
    if problems:
        raise MssegError(problems)


def check_outputs(
    outputs: Sequence[Path],
    inputs: Iterable[Path],
    probability: Path | None = None,
    uncertainty: Path | None = None,
) -> None:
    """Check that outputs are different NIfTI files, no inputs, and no files of other software.

    Args:
        outputs: masks.
        inputs: files that are read.
        probability: probability map of the only mask.
        uncertainty: uncertainty map of the only mask.

    Raises:
        MssegError: with every wrong output (exit 2), before anything is read or written.
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
