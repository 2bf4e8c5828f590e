"""Reader of the longitudinal part of the public open_ms_data collection (Ljubljana)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msseg_lightning.core.paths import resolve_file, shown
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import BASELINE, BRAIN, CHANGE, FOLLOWUP, LongitudinalSubject
from msseg_lightning.core.volume import Affine
from msseg_lightning.read.geometry import read_itk_affine
from msseg_lightning.read.reader import check_ids, existing_root, raise_errors, warnings_of
from msseg_lightning.read.unused import Unused, add_files

_COMMON = Path("longitudinal", "coregistered")
_RAW = Path("longitudinal", "raw")


class OpenMs:
    """Reads each patient as a pair, and a second time with exchanged visits.

    Files of patient NN: ``longitudinal/coregistered/patientNN/gt.nii.gz`` marks lesion change in
    both directions, ``brainmask.nii.gz`` the brain. The scans are
    ``coregistered/patientNN/studyS_FLAIR.nii.gz`` where present (a full download), else
    ``raw/patientNN/studyS_FLAIR.nii.gz`` with the ITK affine
    ``coregistered/patientNN/studyS_FLAIR_to_common_space.txt``, resampled once on loading.

    New lesions are the changed components that are brighter at follow-up
    (:func:`msseg_lightning.read.load.new_lesions_of_change`). With the visits exchanged, vanished
    lesions are the new ones: an independent second pair named ``patientNN_reversed``, of the same
    patient, so that no split tears them apart. Incomplete patients are skipped with a note.

    Args:
        root: the folder that holds ``longitudinal/``.
        reverse: give the exchanged pairs, too.
        raw: take raw scans even where co-registered ones are present.

    Reference:
        Lesjak et al. 2016, Neuroinformatics; github.com/muschellij2/open_ms_data, CC-BY.
    """

    LAYOUT = """\
DATA/                                                      read=open_ms read.root=DATA
  longitudinal/coregistered/patient01/study1_FLAIR.nii.gz  first visit
  longitudinal/coregistered/patient01/study2_FLAIR.nii.gz  second visit
  longitudinal/coregistered/patient01/gt.nii.gz            reference: change in both directions
  longitudinal/coregistered/patient01/brainmask.nii.gz     brain
the folders of github.com/muschellij2/open_ms_data as they are; in the small download the scans lie
under longitudinal/raw, with an affine study1_FLAIR_to_common_space.txt beside gt.nii.gz
"""

    def __init__(self, root: str | Path, reverse: bool = True, raw: bool = False) -> None:
        self.root = Path(root)
        self.reverse = reverse
        self.raw = raw
        self._skipped: list[Problem] = []
        self._used: list[Path] = []

    def subjects(self) -> list[LongitudinalSubject]:
        """Every complete pair, ordered by patient."""
        root = existing_root(self.root)
        problems: list[Problem] = []
        found: list[LongitudinalSubject] = []
        self._skipped, self._used = [], []
        folders = sorted((root / _COMMON).glob("patient*"))
        for folder in folders:
            try:
                found += self._pairs(folder, root)
            except MssegError as error:
                problems += error.problems
        problems += check_ids(found, "folder names")
        if not found and not problems:
            problems.append(
                Problem(
                    "data.empty",
                    "no complete patient was found",
                    file=root.name,
                    field="read.root",
                    found=f"{len(folders)} incomplete patients",
                    expected=f"{_COMMON}/patientNN/gt.nii.gz and two scans",
                    remedy="give the folder that holds longitudinal/, or download the collection",
                )
            )
        raise_errors(problems)
        self._skipped += warnings_of(problems)
        for pair in found:
            self._used += pair.files().values()
        return found

    def skipped(self) -> list[Problem]:
        """Warnings on files that the last call of ``subjects`` did not use."""
        unused = Unused()
        places = [self.root / _COMMON, self.root / _RAW]
        left_out = [
            place / str(problem.file)
            for problem in self._skipped
            if problem.code == "pair.incomplete"
            for place in places
        ]
        if self._used:
            root = existing_root(self.root)
            add_files(unused, root, self._used, [*left_out, root / "cross_sectional"])
        return [*self._skipped, *unused.problems()]

    def order(self) -> list[str]:
        """Says that file names give the order of visits."""
        return [
            "study1 before study2 for every patient (names of the files)"
            + ("; the pairs named _reversed exchange them" if self.reverse else "")
        ]

    def _pairs(self, folder: Path, root: Path) -> Iterator[LongitudinalSubject]:
        scans: dict[int, Path] = {}
        transforms: dict[int, Affine] = {}
        missing = [
            shown(folder / name, root)
            for name in ("gt.nii.gz", "brainmask.nii.gz")
            if not (folder / name).exists()
        ]
        for study in (1, 2):
            name = f"study{study}_FLAIR.nii.gz"
            ready, raw = folder / name, root / _RAW / folder.name / name
            transform = folder / f"study{study}_FLAIR_to_common_space.txt"
            if ready.exists() and not self.raw:
                scans[study] = ready
            elif raw.exists() and transform.exists():
                scans[study] = raw
                self._used.append(transform)
                transforms[study] = read_itk_affine(
                    resolve_file(transform, root), shown(transform, root)
                )
            else:
                missing.append(shown(raw if transform.exists() else transform, root))
        if missing:
            self._skipped.append(
                Problem(
                    "pair.incomplete",
                    "left out: the patient is incomplete",
                    file=folder.name,
                    field="file",
                    found=f"without {', '.join(missing)}",
                    expected="two scans, gt.nii.gz and brainmask.nii.gz",
                    remedy="nothing to do, or download the full collection",
                    severity="warning",
                )
            )
            return
        for reverse in (False, True) if self.reverse else (False,):
            first, second = (2, 1) if reverse else (1, 2)
            to_native = {
                name: transforms[study]
                for name, study in ((BASELINE, first), (FOLLOWUP, second))
                if study in transforms
            }
            yield LongitudinalSubject(
                id=f"{folder.name}_reversed" if reverse else folder.name,
                patient=folder.name,
                images={BASELINE: scans[first], FOLLOWUP: scans[second]},
                masks={CHANGE: folder / "gt.nii.gz", BRAIN: folder / "brainmask.nii.gz"},
                to_native=to_native,
                reversed_time=reverse,
                root=root,
                registered=True,
            )
