"""Predictions of a BIDS data set as BIDS derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning import __version__
from msseg_lightning.core.files import atomic_write, write_json
from msseg_lightning.core.outputs import is_json_with, is_text_with, refuse_overwrites
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LongitudinalSubject
from msseg_lightning.run.config.compose import Config

READER = "msseg_lightning.read.bids.Bids"
VERSION = "1.10.0"
"""Of BIDS."""
DESCRIPTION = "dataset_description.json"
IGNORED = "# written by msseg\n*_msseg.json\nscores\nscores.*\n**/steps\n"
"""Content of ``.bidsignore``: files that are not part of the standard."""


def is_bids(config: Config) -> bool:
    """Whether the data set of a prediction is read as BIDS."""
    return bool((config.get("read") or {}).get("_target_") == READER)


def derivative_files(
    subjects: Sequence[LongitudinalSubject], folder: Path, uncertainty: bool
) -> dict[str, Any]:
    """Files of every pair: arguments ``outputs``, ``maps`` and ``uncertainty`` of a ``Predictor``.

    A pair is named after its follow-up, on whose grid the mask lies:
    ``sub-X/ses-B/anat/sub-X_ses-B_desc-newlesions_mask.nii.gz``.
    """
    stems = {subject.id: _stem(subject, folder) for subject in subjects}

    def named(ending: str) -> dict[str, Path]:
        return {name: stem.with_name(stem.name + ending) for name, stem in stems.items()}

    return {
        "outputs": named("_desc-newlesions_mask.nii.gz"),
        "maps": named("_desc-newlesions_probseg.nii.gz"),
        "uncertainty": named("_desc-newlesions_stat-std_probseg.nii.gz") if uncertainty else False,
    }


def _stem(subject: LongitudinalSubject, folder: Path) -> Path:
    session = subject.id.split("_")[-1]  # names of pairs are sub-X_ses-A_ses-B
    return folder / subject.patient / session / "anat" / f"{subject.patient}_{session}"


def write_description(
    folder: Path, subjects: Sequence[LongitudinalSubject], system: Mapping[str, Any]
) -> None:
    """Write ``dataset_description.json``, ``.bidsignore`` and the side-cars of the masks.

    Args:
        folder: of the derivatives.
        subjects: pairs whose masks exist.
        system: ``name`` and ``model_sha256``.

    Raises:
        MssegError: such a file is there already and was not written here (exit 2).
    """
    generated = {
        "Name": "msseg_lightning",
        "Version": __version__,
        "Description": f"{system['name']}, weights {str(system['model_sha256'])[:12]}; "
        "research use only",
    }
    content = {
        "Name": "New multiple-sclerosis lesions",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
    }
    ignore, description = folder / ".bidsignore", folder / DESCRIPTION
    refuse_overwrites(
        [
            (description, is_text_with('"msseg_lightning"')),
            (ignore, is_text_with("written by msseg")),
        ],
        (),
        "--folder",
    )
    write_json(description, content)
    with atomic_write(ignore) as temporary:
        temporary.write_text(IGNORED, encoding="utf-8")
    for subject in subjects:
        stem = _stem(subject, folder)
        file = stem.with_name(f"{stem.name}_desc-newlesions_mask.json")
        refuse_overwrites([(file, is_json_with("Type", "Sources"))], (), "--folder")
        root = subject.root
        scans = [subject.images[name] for name in (BASELINE, FOLLOWUP)]
        inside = [
            scan.relative_to(root).as_posix()
            for scan in scans
            if root is not None and root in scan.parents
        ]
        write_json(
            file,
            {
                "Type": "Lesion",
                "Description": "lesions of the second session that the first does not show",
                "Sources": [f"bids:raw:{name}" for name in inside],
                "SpatialReference": "orig",
            },
        )
