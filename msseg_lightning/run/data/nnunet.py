"""Export of a data set in the raw format of nnU-Net v2."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.outputs import is_json_with, refuse_overwrites
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET, LongitudinalSubject
from msseg_lightning.core.subject_map import map_subjects
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.nifti import GateOptions, write_volume
from msseg_lightning.split.split import Split

CHANNELS = (BASELINE, FOLLOWUP)
"""Images of a case: ``<case>_0000.nii.gz`` and ``<case>_0001.nii.gz``."""
FOLDER_NAME = re.compile(r"Dataset\d{3}_\w+")


def export_nnunet(
    subjects: Sequence[LongitudinalSubject],
    split: Split,
    folder: Path,
    reading: GateOptions,
) -> list[Path]:
    """Write a data set for ``nnUNetv2_plan_and_preprocess`` and ``nnUNetv2_predict``.

    ``imagesTr`` and ``labelsTr`` hold the pairs of training and validation, ``imagesTs`` and
    ``labelsTs`` those held out; ``dataset.json`` names the channels and is written last. Voxels are
    those of the files.

    Args:
        subjects: labelled pairs.
        split: what is trained on and what is held out.
        folder: named as nnU-Net wants it, e.g. ``nnUNet_raw/Dataset501_MSSEG2``.
        reading: options for reading the files.

    Raises:
        MssegError: the folder has another name or holds files of somebody else (exit 2), or a pair
            is refused or its visits lie on different grids (exit 3).
    """
    if not FOLDER_NAME.fullmatch(folder.name):
        raise MssegError(
            Problem(
                "export.name",
                "nnU-Net does not find a data set of this name",
                file=folder,
                field="FOLDER",
                found=folder.name,
                expected="DatasetNNN_Name, in the folder that nnUNet_raw names",
                remedy=f"{folder.parent / 'Dataset501_MSSEG2'}",
                exit_code=ExitCode.CONFIG,
            )
        )
    description = folder / "dataset.json"
    refuse_overwrites([(description, is_json_with("channel_names", "exported_by"))], field="FOLDER")
    if folder.is_dir() and any(folder.iterdir()) and not description.exists():
        raise MssegError(
            Problem(
                "export.not_empty",
                "the folder holds files that are no finished export",
                file=folder,
                field="FOLDER",
                expected="a new folder",
                remedy="delete the folder, or name another one",
                exit_code=ExitCode.CONFIG,
            )
        )
    training = {*split.train, *split.val}
    named = {one.id: one for one in subjects if one.id in training or one.id in split.test}

    def write(subject: LongitudinalSubject) -> list[Path]:
        return _write_pair(subject, folder, "Tr" if subject.id in training else "Ts", reading)

    written = [
        file
        for files in map_subjects(write, named, step="export").all_done().values()
        for file in files
    ]
    _remove_others(folder, written)
    content = {
        "name": folder.name,
        "channel_names": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": {"background": 0, TARGET: 1},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
        "exported_by": "msseg_lightning",
        "split": split.kind,
        "fold": split.fold,
    }
    with atomic_write(description) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [*written, description]


def _write_pair(
    subject: LongitudinalSubject, folder: Path, part: str, reading: GateOptions
) -> list[Path]:
    loaded = load_subject(subject.with_raters(()), reading)
    volumes = [loaded.volumes[name] for name in (*CHANNELS, TARGET)]
    if not all(volume.grid.same_as(loaded.native.grid) for volume in volumes):
        raise MssegError(
            Problem(
                "export.grids",
                "the visits of this pair lie on different grids, which nnU-Net does not take",
                file=subject.id,
                field="affine",
                found=", ".join(str(volume.grid.shape) for volume in volumes),
                expected="both visits and the reference on one grid",
                remedy="register the visits first and give the registered files",
                exit_code=ExitCode.DATA,
            )
        )
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    files = [images / f"{subject.id}_{index:04d}.nii.gz" for index in range(len(CHANNELS))]
    files.append(labels / f"{subject.id}.nii.gz")
    for file, volume in zip(files, volumes, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_volume(file, volume.data, loaded.native, volume.kind)
    return files


def _remove_others(folder: Path, written: Collection[Path]) -> None:
    """Remove what an earlier export of another fold left; nnU-Net would train on it."""
    kept = set(written)
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        for file in (folder / part).glob("*.nii.gz"):
            if file not in kept:
                file.unlink()
