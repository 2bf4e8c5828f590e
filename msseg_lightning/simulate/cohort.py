"""Writing of simulated cohorts in the challenge's layout."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from msseg_lightning.core.files import atomic_write, flush_folder, write_json
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject_map import SupportsSubmit, map_subjects
from msseg_lightning.core.volume import Volume
from msseg_lightning.simulate.patient import RENDERER_VERSION, SimulatedPatient, simulate_patient
from msseg_lightning.simulate.recipe import CohortRecipe

DONE = "patient.json"
"""Tables of one patient; written last, so they mark a complete folder."""

RENDERER = "renderer_version"
"""Key of ``cohort.json``, see ``patient.RENDERER_VERSION``."""


def write_cohort(
    folder: Path,
    recipe: CohortRecipe,
    seed: int = 0,
    workers: int = 1,
    indices: Sequence[int] | None = None,
    executor: SupportsSubmit | None = None,
) -> Path:
    """Write a cohort, or some of its patients, and the tables of all patients on disk.

    A patient is written into a hidden folder and renamed when complete, so a killed run leaves only
    whole patients; the next run skips them and sweeps what was left half-done. Several processes
    may write one cohort: who wants a patient that another is writing waits for it.

    Args:
        folder: gets one folder per patient (``001`` ...), ``participants.tsv``, ``lesions.tsv``,
            ``split.json`` and ``cohort.json``.
        recipe: what to make.
        seed: of all draws.
        workers: processes; 1 works in this one.
        indices: 0-based patients; all by default.
        executor: works in place of ``workers`` processes; it needs the same disk.

    Returns:
        The folder.

    Raises:
        MssegError: there is no such patient (exit 2); the folder holds a cohort of another recipe,
            seed or version of the renderer; or some patients failed, then the others are complete.
    """
    wanted = list(range(recipe.size)) if indices is None else sorted(set(indices))
    _refuse_strangers(wanted, recipe.size)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, recipe, seed)
    missing = {
        recipe.patient_name(index): index
        for index in wanted
        if not _complete(folder, recipe, index)
    }
    write = functools.partial(_write_one, folder, recipe, seed)
    mapped = map_subjects(write, missing, executor or workers, "simulate")
    write_tables(folder)
    mapped.all_done()
    return folder


def _refuse_strangers(wanted: Sequence[int], size: int) -> None:
    if strangers := [index for index in wanted if not 0 <= index < size]:
        raise MssegError(
            Problem(
                "simulate.no_such_patient",
                "The cohort has no such patient.",
                field="indices",
                found=", ".join(map(str, strangers[:8])),
                expected=f"0 to {size - 1}",
                remedy="count from 0, or give the recipe more patients",
                exit_code=ExitCode.CONFIG,
            )
        )


def _write_one(folder: Path, recipe: CohortRecipe, seed: int, index: int) -> None:
    name = recipe.patient_name(index)
    lock_file = folder / f".{name}.lock"
    with FileLock(lock_file):
        if not _complete(folder, recipe, index):  # not written by another process meanwhile
            for left in folder.glob(f".partial-{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            write_patient(folder, simulate_patient(recipe, seed, index))
        lock_file.unlink(missing_ok=True)  # later processes find the patient complete


def _complete(folder: Path, recipe: CohortRecipe, index: int) -> bool:
    return (folder / recipe.patient_name(index) / DONE).is_file()


def _claim(folder: Path, recipe: CohortRecipe, seed: int) -> None:
    content = {RENDERER: RENDERER_VERSION, "seed": seed, "recipe": _plain(recipe)}
    record = json.loads(json.dumps(content))
    path, lock_file = folder / "cohort.json", folder / ".cohort.lock"
    if not path.is_file():  # of several that find an empty folder the first one's recipe counts
        _refuse_foreign_folder(folder, path, recipe)
        with FileLock(lock_file):
            if not path.is_file():
                write_json(path, record)
            lock_file.unlink(missing_ok=True)  # later processes find the record
    _refuse_other(path, record)


def _refuse_foreign_folder(folder: Path, record: Path, recipe: CohortRecipe) -> None:
    """Refuse a folder with patients but without ``cohort.json``: it holds other data."""
    tables = ("lesions.tsv", "participants.tsv", "split.json")
    patients = (recipe.patient_name(index) for index in range(recipe.size))
    foreign = [name for name in (*tables, *patients) if (folder / name).exists()]
    if foreign and not record.is_file():  # written by another process meanwhile
        raise MssegError(
            Problem(
                "simulate.foreign_folder",
                "The folder holds files that no simulation wrote.",
                file=folder,
                field="OUT",
                found=", ".join(foreign[:5]),
                expected="a new folder, or a cohort with its cohort.json",
                remedy="give another folder",
                exit_code=ExitCode.CONFIG,
            )
        )


def _refuse_other(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse to continue a cohort of another recipe, seed or version of the renderer."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not ours, or damaged: it says nothing of the patients beside it
        known = None
    wanted, found = _flat(record), _flat(known)
    differ = sorted(
        key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)
    )
    if not differ:
        return
    if differ == [RENDERER]:
        older = "none: made before versions were recorded"
        raise MssegError(
            Problem(
                "simulate.other_version",
                "The cohort was begun by another version of the simulator, which draws other "
                "voxels.",
                file=path,
                field=RENDERER,
                found=str(found.get(RENDERER, older)),
                expected=str(wanted[RENDERER]),
                remedy="make a new cohort in another folder, or delete this one; what is here can "
                "still be read and trained on",
            )
        )
    raise MssegError(
        Problem(
            "simulate.other_cohort",
            "The folder holds a cohort of another recipe or seed.",
            file=path,
            field=", ".join(differ[:5]),
            found=", ".join(str(found.get(key)) for key in differ[:5]),
            expected=", ".join(str(wanted.get(key)) for key in differ[:5]),
            remedy="choose another folder or delete this one",
        )
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _flat(node: Any, place: str = "") -> dict[str, Any]:
    if isinstance(node, Mapping):
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat |= _flat(value, f"{place}.{key}" if place else str(key))
        return flat
    return {place: node}


def write_patient(folder: Path, patient: SimulatedPatient) -> Path:
    """Write one patient's folder; it gets its name only when it is complete."""
    target = folder / patient.name
    partial = Path(tempfile.mkdtemp(prefix=f".partial-{patient.name}-", dir=folder))
    try:
        for name, volume in patient.volumes.items():
            _write_durably(partial / f"{name}.nii.gz", nifti_bytes(volume))
        tables = {"participant": patient.participant, "lesions": list(patient.lesions)}
        _write_durably(partial / DONE, (json.dumps(tables, indent=1) + "\n").encode())
        partial.chmod(0o755)
        flush_folder(partial)
        if target.exists():  # unfinished or foreign: it has no record of being complete
            shutil.rmtree(target)
        os.replace(partial, target)  # noqa: PTH105 - as in core.files
        flush_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_durably(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def nifti_bytes(volume: Volume) -> bytes:
    """A compressed NIfTI-1 file; the same volume gives the same bytes."""
    import nibabel

    image = nibabel.Nifti1Image(volume.data, volume.affine)
    if volume.data.ndim == 5:
        image.header.set_intent("vector")
    else:
        image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    buffer = io.BytesIO()
    # level 1: noise does not compress, and time is better spent on the next patient
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0, filename="") as stream:
        stream.write(image.to_bytes())
    return buffer.getvalue()


def write_tables(folder: Path) -> None:
    """Write the tables and ``split.json`` of all complete patients.

    Of several processes that end at once the last to write may have looked first, so each looks
    again.
    """
    found: list[Path] = []
    while (complete := sorted(folder.glob(f"[!.]*/{DONE}"))) != found:  # not half-done ones
        found = complete
        _write_tables(folder, found)


def _write_tables(folder: Path, complete: Sequence[Path]) -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in complete]
    participants = [record["participant"] for record in records]
    _write_table(folder / "participants.tsv", participants)
    _write_table(folder / "lesions.tsv", [row for record in records for row in record["lesions"]])
    parts = {
        part: [row["participant_id"] for row in participants if row["part"] == part]
        for part in ("train", "test")
    }
    write_json(folder / "split.json", parts)


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = ["\t".join(rows[0])] if rows else []
    lines += ["\t".join(str(value) for value in row.values()) for row in rows]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def summarise(recipe: CohortRecipe, seed: int) -> dict[str, float]:
    """Counts and volumes of lesions of the training part, without rendering."""
    from msseg_lightning.simulate.head import load_head
    from msseg_lightning.simulate.lesion import draw_lesions
    from msseg_lightning.simulate.lesion_prior.statistics import shipped_statistics

    counts, volumes, old = [], [], []
    for index in range(recipe.train):
        lesions = draw_lesions(recipe, shipped_statistics(), load_head(), seed, index)
        new = [lesion for lesion in lesions if lesion.fate == "new"]
        counts.append(len(new))
        volumes += [lesion.volume_mm3 for lesion in new]
        old.append(sum(lesion.fate not in ("new", "vessel") for lesion in lesions))
    return {
        "patients": len(counts),
        "without": int(sum(count == 0 for count in counts)),
        "with_one": int(sum(count == 1 for count in counts)),
        "new": int(sum(counts)),
        "most": int(max(counts)),
        "median_mm3": float(np.median(volumes)),
        "mean_mm3": float(np.mean(volumes)),
        "old_median": float(np.median(old)),
    }
