"""Reader of the folders of the MSSEG-2 challenge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import (
    ADJUDICATED,
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
    LongitudinalSubject,
)
from msseg_lightning.read.patterns import check_patterns
from msseg_lightning.read.reader import FolderReading, named_files, setting_of_file

IMAGES = {
    BASELINE: "flair_time01_on_middle_space.nii.gz",
    FOLLOWUP: "flair_time02_on_middle_space.nii.gz",
}
MASKS = {
    TARGET: "ground_truth.nii.gz",
    **{f"{TARGET}_rater{n}": f"ground_truth_expert{n}.nii.gz" for n in range(1, 5)},
    ADJUDICATED: "ground_truth_adjudicated.nii.gz",
    BRAIN: "brain_mask.nii.gz",
    BASELINE_LESIONS: "lesions_time01.nii.gz",
    FOLLOWUP_LESIONS: "lesions_time02.nii.gz",
}


class Msseg2:
    """Reads one folder per patient, with both scans in the halfway space.

    ``NNN/flair_time01_on_middle_space.nii.gz``, ``flair_time02_on_middle_space.nii.gz`` and, in
    training folders, ``ground_truth.nii.gz`` and ``ground_truth_expert1..4.nii.gz``. Beyond the
    challenge, ``brain_mask.nii.gz``, a corrected ``ground_truth_adjudicated.nii.gz`` and masks of
    all lesions of a visit (``lesions_time01.nii.gz``, ``lesions_time02.nii.gz``) are taken where
    present, and covariates from a ``participants.tsv`` beside the folders. Folders without any of
    these files are left out and named by ``skipped``.

    Args:
        root: the folder that holds the patients' folders.
        labelled_only: leave out pairs without ``ground_truth.nii.gz``.
        need_all_raters: refuse a pair that has one to three of the four raters' masks.
        files: name of a scan or mask, such as ``new_lesions`` -> how its file is called in every
            folder, with ``{subject}`` for the name of the folder and ``*`` for any text.
    """

    LAYOUT = """\
DATA/                                            read=msseg2 read.root=DATA
  013/flair_time01_on_middle_space.nii.gz        first visit; both scans in the halfway space
  013/flair_time02_on_middle_space.nii.gz        second visit
  013/ground_truth.nii.gz                        reference: new lesions
  013/ground_truth_expert1.nii.gz                optional: the four raters (expert1 .. expert4)
  013/ground_truth_expert2.nii.gz
  013/ground_truth_expert3.nii.gz
  013/ground_truth_expert4.nii.gz
  013/brain_mask.nii.gz                          optional: brain
  013/lesions_time01.nii.gz                      optional: all lesions of a visit
  013/lesions_time02.nii.gz
  participants.tsv                               optional: participant_id, sex, age, site, vendor
other names:  read.files.new_lesions=NAME, in every folder; {subject} is the folder, * any text
              (baseline_flair, followup_flair, new_lesions, new_lesions_rater1 .. 4, brain,
              baseline_lesions, followup_lesions)
"""

    def __init__(
        self,
        root: str | Path,
        labelled_only: bool = False,
        need_all_raters: bool = True,
        files: Mapping[str, str | None] | None = None,
    ) -> None:
        self.root = Path(root)
        self.files = check_patterns(files, (*IMAGES, *MASKS), ("subject",), "read.files")
        self.labelled_only = labelled_only
        self.need_all_raters = need_all_raters
        self._reading: FolderReading | None = None

    def subjects(self) -> list[LongitudinalSubject]:
        """Every pair, ordered by folder name."""
        self._reading = None
        self._reading = FolderReading(
            self.root,
            self._subject,
            Problem(
                "data.empty",
                "no patient was found",
                file=Path(self.root).name,
                field="read.root",
                found="no folder with " + IMAGES[BASELINE],
                expected="NNN/" + IMAGES[BASELINE],
                remedy="give the folder that holds the patients' folders; `msseg check read=msseg2 "
                "--layout` shows the names, and how to give others",
            ),
            setting_of_file,
        )
        self._reading.unmatched(self.files, {**IMAGES, **MASKS})
        return self._reading.subjects()

    def skipped(self) -> list[Problem]:
        """Warnings on files that the last call of ``subjects`` did not use."""
        return self._reading.skipped() if self._reading else []

    def order(self) -> list[str]:
        """Says that file names give the order of visits."""
        return ["time01 before time02 in every folder (names of the files)"]

    def _subject(
        self, folder: Path, root: Path, problems: list[Problem]
    ) -> LongitudinalSubject | None:
        images = named_files(folder, IMAGES, self.files, problems)
        masks = named_files(folder, MASKS, self.files, problems)
        if not images and not masks:
            return None
        for name, file in {**IMAGES, **self.files}.items():
            if name in IMAGES and name not in images:
                problems.append(
                    Problem(
                        "pair.missing_image",
                        "a scan of the pair is missing",
                        file=f"{folder.name}/{file}",
                        field="file",
                        found=", ".join(path.name for path in images.values()) or "no scan",
                        expected=file,
                        remedy="restore the scan, or remove the folder",
                    )
                )
        raters = [name for name in masks if name.startswith(f"{TARGET}_rater")]
        if self.need_all_raters and 0 < len(raters) < 4:
            problems.append(
                Problem(
                    "mask.raters",
                    "some of the four raters are missing",
                    file=folder.name,
                    field="ground_truth_expert1..4",
                    found=f"{len(raters)} of 4",
                    expected="all four or none",
                    remedy="restore the masks, or set read.need_all_raters=false",
                )
            )
        if self.labelled_only and TARGET not in masks:
            problems.append(
                Problem(
                    "pair.unlabelled",
                    "left out: it has no reference",
                    file=folder.name,
                    field=MASKS[TARGET],
                    remedy="add the mask, or read.labelled_only=false to keep it",
                    severity="warning",
                )
            )
            return None
        if len(images) < 2:
            return None
        return LongitudinalSubject(
            id=folder.name,
            patient=folder.name,
            images=images,
            masks=masks,
            root=root,
            registered=True,
        )
