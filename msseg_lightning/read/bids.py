"""Longitudinal pairs in a BIDS data set."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
    Facts,
    LongitudinalSubject,
)
from msseg_lightning.read.participants import read_participants
from msseg_lightning.read.paths import shown
from msseg_lightning.read.reader import check_ids, existing_root, raise_errors

_SUFFIXES = (".nii.gz", ".nii")


class Bids:
    """Consecutive sessions of each subject as pairs.

    Scans: ``sub-X/ses-Y/anat/*_FLAIR.nii[.gz]``, sessions in order of label. A subject with n
    sessions gives n - 1 pairs named ``sub-X_ses-A_ses-B``, all of the patient ``sub-X``. Masks lie
    under ``derivatives/*/sub-X/ses-B/anat/`` and are found by their label, on the grid of the
    follow-up: ``*_label-newlesion_mask`` (new lesions; ``_desc-rater1`` .. ``4`` before the label
    for raters), ``*_label-brain_mask`` or ``*_desc-brain_mask``, and, for both sessions,
    ``*_label-lesion_mask`` (all lesions). Facts come from ``participants.tsv``.

    Two scans that match are refused unless ``entities`` chooses: ``entities={"run": "1"}`` keeps
    files with ``run-1``.

    Args:
        root: the data set.
        entities: BIDS entities a scan must carry.
        registered: both sessions lie on one grid; others are refused.
    """

    def __init__(
        self,
        root: str | Path,
        entities: dict[str, str] | None = None,
        registered: bool = False,
    ) -> None:
        self.root = Path(root)
        self.entities = {key: str(value) for key, value in (entities or {}).items()}
        self.registered = registered
        self._skipped: list[Problem] = []

    def subjects(self) -> list[LongitudinalSubject]:
        """Every pair, ordered by subject and session."""
        root = existing_root(self.root)
        facts = read_participants(root / "participants.tsv", root)
        problems: list[Problem] = []
        found: list[LongitudinalSubject] = []
        self._skipped = []
        for folder in sorted(path for path in root.glob("sub-*") if path.is_dir()):
            scans = self._scans(folder, root, problems)
            if len(scans) < 2:
                self._skipped.append(
                    Problem(
                        "pair.incomplete",
                        "left out: fewer than two sessions with a FLAIR",
                        file=folder.name,
                        field="ses-*",
                        found=f"{len(scans)} sessions",
                        expected="2 or more",
                        remedy="nothing to do, or add the missing session",
                        severity="warning",
                    )
                )
                continue
            sessions = sorted(scans)
            for first, second in itertools.pairwise(sessions):
                found.append(
                    LongitudinalSubject(
                        id=f"{folder.name}_{first}_{second}",
                        patient=folder.name,
                        images={BASELINE: scans[first], FOLLOWUP: scans[second]},
                        masks=self._masks(folder.name, first, second, root, problems),
                        facts=facts.get(folder.name, facts.get(folder.name[4:], Facts())),
                        root=root,
                        registered=self.registered,
                    )
                )
        problems += check_ids(found, "folder names")
        if not found and not problems:
            problems.append(
                Problem(
                    "data.empty",
                    "no pair was found",
                    file=root.name,
                    field="read.root",
                    found=f"{len(self._skipped)} subjects with fewer than two sessions",
                    expected="sub-*/ses-*/anat/*_FLAIR.nii.gz, two sessions each",
                    remedy="give the root of the BIDS data set",
                )
            )
        raise_errors(problems)
        return found

    def skipped(self) -> list[Problem]:
        """Subjects left out by the last call of ``subjects``."""
        return list(self._skipped)

    def _scans(self, folder: Path, root: Path, problems: list[Problem]) -> dict[str, Path]:
        scans: dict[str, Path] = {}
        for session in sorted(path for path in folder.glob("ses-*") if path.is_dir()):
            files = [
                file
                for suffix in _SUFFIXES
                for file in sorted((session / "anat").glob(f"*_FLAIR{suffix}"))
                if self._wanted(file.name)
            ]
            if len(files) > 1:
                problems.append(_ambiguous(files, root))
            if files:
                scans[session.name] = files[0]
        return scans

    def _wanted(self, name: str) -> bool:
        return all(
            re.search(rf"(^|_){re.escape(key)}-{re.escape(value)}(_|\.)", name)
            for key, value in self.entities.items()
        )

    def _masks(
        self, subject: str, first: str, second: str, root: Path, problems: list[Problem]
    ) -> dict[str, Path]:
        wanted = {
            TARGET: (second, ("label-newlesion_mask",)),
            BRAIN: (second, ("label-brain_mask", "desc-brain_mask")),
            BASELINE_LESIONS: (first, ("label-lesion_mask",)),
            FOLLOWUP_LESIONS: (second, ("label-lesion_mask",)),
            **{
                f"{TARGET}_rater{n}": (second, (f"desc-rater{n}_label-newlesion_mask",))
                for n in range(1, 5)
            },
        }
        masks: dict[str, Path] = {}
        for name, (session, labels) in wanted.items():
            files = [
                file
                for label in labels
                for suffix in _SUFFIXES
                for file in sorted(
                    root.glob(f"derivatives/*/{subject}/{session}/anat/*_{label}{suffix}")
                )
                if "rater" in name or "_desc-rater" not in file.name
            ]
            if len(files) > 1:
                problems.append(_ambiguous(files, root))
            if files:
                masks[name] = files[0]
        return masks


def _ambiguous(files: list[Path], root: Path) -> Problem:
    return Problem(
        "bids.ambiguous",
        "several files fit",
        file=shown(files[0], root),
        field="file",
        found=", ".join(file.name for file in files),
        expected="one file",
        remedy="choose, e.g. +read.entities.run=1, or remove the others",
    )
