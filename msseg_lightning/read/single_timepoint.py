"""Reader of scans of single visits with a mask of all lesions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import (
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    LoadedSubject,
    LongitudinalSubject,
)
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.patterns import check_patterns
from msseg_lightning.read.reader import FolderReading, named_files, setting_of_file

IMAGE = "flair.nii.gz"
OTHERS = {"followup_t1": "t1.nii.gz", "followup_t2": "t2.nii.gz"}
"""Further contrasts that may lie beside the FLAIR, on its grid."""

MASKS = {FOLLOWUP_LESIONS: "lesions.nii.gz", BRAIN: "brain_mask.nii.gz"}
FILES = {FOLLOWUP: IMAGE, **OTHERS, **MASKS}


class SingleTimepoint:
    """Reads one folder per scan: ``NNN/flair.nii.gz``, ``lesions.nii.gz``, ``brain_mask.nii.gz``.

    The scan is read as the follow-up of a pair that has no baseline: whatever learns from one visit
    asks for ``followup_flair`` and ``followup_lesions`` and so takes pairs and single scans alike.
    Nothing new can be learned about change from such a subject alone, and nothing that needs
    ``baseline_flair`` accepts it.

    ``t1.nii.gz`` and ``t2.nii.gz`` on the grid of the FLAIR are read too where they lie there, as
    ``followup_t1`` and ``followup_t2`` (S23).

    Both masks may be absent; lesions are then marked by preprocessing or by another reader's data.
    Covariates come from a ``participants.tsv`` beside the folders. Folders without a scan and a
    mask are left out and named by ``skipped``.

    Args:
        root: the folder that holds the scans' folders; None is no scan at all.
        prefix: put before the folder's name to name subject and patient. Folder ``001`` here and
            patient ``001`` of the pairs are different people; where they are the same, set it to
            ``""``, and what is tested is kept out of what is learned from.
        labelled_only: leave out scans without ``lesions.nii.gz``.
        files: name of a scan or mask, such as ``followup_lesions`` -> how its file is called in
            every folder, with ``{subject}`` for the name of the folder and ``*`` for any text.
    """

    LAYOUT = """\
DATA/                              read=single_timepoint read.root=DATA
  001/flair.nii.gz                 the scan
  001/lesions.nii.gz               reference: all lesions of the visit
  001/brain_mask.nii.gz            optional: brain
  001/t1.nii.gz                    optional: further contrasts on the grid of the FLAIR
  001/t2.nii.gz
  participants.tsv                 optional: participant_id, sex, age, site, vendor
other names:  read.files.followup_lesions=NAME, in every folder; {subject} is the folder, * any text
              (followup_flair, followup_lesions, brain, followup_t1, followup_t2)
"""

    def __init__(
        self,
        root: str | Path | None,
        prefix: str = "single-",
        labelled_only: bool = False,
        files: Mapping[str, str | None] | None = None,
    ) -> None:
        self.files = check_patterns(files, tuple(FILES), ("subject",), "read.files")
        self.root = None if root is None else Path(root)
        self.prefix = prefix
        self.labelled_only = labelled_only
        self._reading: FolderReading | None = None

    def subjects(self) -> list[LongitudinalSubject]:
        """Every scan, ordered by folder name.

        Raises:
            MssegError: no scan at all, a mask without its scan, names that cannot be ids.
        """
        if self.root is None:
            return []
        self._reading = None
        self._reading = FolderReading(
            self.root,
            self._subject,
            Problem(
                "data.empty",
                "no scan was found",
                file=Path(self.root).name,
                field="read.root",
                found=f"no folder with {IMAGE}",
                expected=f"NNN/{IMAGE}",
                remedy="give the folder that holds the scans' folders; `msseg check "
                "read=single_timepoint --layout` shows the names, and how to give others",
            ),
            _setting,
        )
        self._reading.unmatched(self.files, FILES)
        return self._reading.subjects()

    def skipped(self) -> list[Problem]:
        """Warnings on files that the last call of ``subjects`` did not use."""
        return self._reading.skipped() if self._reading else []

    def order(self) -> list[str]:
        """Empty: a single visit has no order."""
        return []

    def load(self, subject: LongitudinalSubject) -> LoadedSubject:
        """Read and check one scan.

        Raises:
            MssegError: with everything that is wrong with its files.
        """
        return load_subject(subject)

    def _subject(
        self, folder: Path, root: Path, problems: list[Problem]
    ) -> LongitudinalSubject | None:
        files = named_files(folder, FILES, self.files, problems)
        masks = {name: files[name] for name in MASKS if name in files}
        if FOLLOWUP not in files:
            if masks:
                problems.append(
                    Problem(
                        "pair.missing_image",
                        "there is a mask but no scan",
                        file=f"{folder.name}/{IMAGE}",
                        field="file",
                        found=", ".join(path.name for path in masks.values()),
                        expected=IMAGE,
                        remedy="restore the scan, or remove the folder",
                    )
                )
            return None
        if self.labelled_only and FOLLOWUP_LESIONS not in masks:
            problems.append(
                Problem(
                    "pair.unlabelled",
                    "left out: it has no mask of lesions",
                    file=folder.name,
                    field=MASKS[FOLLOWUP_LESIONS],
                    remedy="add the mask, or read.labelled_only=false to keep it",
                    severity="warning",
                )
            )
            return None
        name = f"{self.prefix}{folder.name}"
        images = {name: files[name] for name in (FOLLOWUP, *OTHERS) if name in files}
        return LongitudinalSubject(name, name, images, masks, root=root)


def _setting(place: str) -> str:
    """As ``setting_of_file``; the reference of a single visit is that of all lesions."""
    return setting_of_file(place).replace("new_lesions", FOLLOWUP_LESIONS)
