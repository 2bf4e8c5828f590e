"""Check of a data set that reports all problems of all files."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from msseg_lightning.core.paths import shown
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET, LongitudinalSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.read.gate import inspect_subject
from msseg_lightning.read.nifti import DEFAULT, GateOptions


class Reader(Protocol):
    """Methods of a reader that a check needs."""

    def subjects(self) -> list[LongitudinalSubject]:
        """All pairs."""

    def skipped(self) -> list[Problem]:
        """A problem for everything that was skipped."""

    def order(self) -> list[str]:
        """Order of the visits of each patient, and how it was found."""


@dataclasses.dataclass(frozen=True)
class SubjectReport:
    """Result of the check of one pair.

    Args:
        id: id of the pair.
        patient: id of the patient.
        problems: errors and warnings.
        images: name -> digest of its voxels, to find copies among patients.
        files: name -> path for display.
        labelled: whether it has a reference of new lesions.
    """

    id: str
    patient: str
    problems: tuple[Problem, ...]
    images: Mapping[str, str]
    files: Mapping[str, str]
    labelled: bool


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """Result of the check of a data set.

    Args:
        subjects: ids of the pairs that were checked.
        problems: errors and warnings, in order of the pairs.
        labelled: number of pairs with a reference.
        order: order of the visits of each patient, and how it was found.
    """

    subjects: tuple[str, ...]
    problems: tuple[Problem, ...]
    labelled: int
    order: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems because of which the data set is refused."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that do not refuse the data set."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: 0, or that of the errors."""
        return MssegError(self.errors).exit_code if self.errors else ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON record."""
        return {
            "subjects": list(self.subjects),
            "labelled": self.labelled,
            "order": list(self.order),
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "exit_code": int(self.exit_code),
            "problems": [problem.as_dict() for problem in self.problems],
        }


def check_dataset(
    reader: Reader,
    options: GateOptions = DEFAULT,
    workers: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check every pair of a reader.

    All problems are reported, not only the first. If the layout of folders has errors, pairs are
    not checked.

    Args:
        reader: reader of the data set.
        options: options of the checks.
        workers: number of threads; None for one per processor, at most 4, since each holds the
            volumes of a pair.
        advance: progress callback, called with the number of checked pairs and of all pairs.
    """
    try:
        subjects = reader.subjects()
    except MssegError as error:
        return CheckReport((), (*reader.skipped(), *error.problems), 0, tuple(reader.order()))
    reports = list(_check_all(subjects, options, workers, advance))
    problems = [
        *reader.skipped(),
        *(problem for report in reports for problem in report.problems),
        *_copies(reports),
    ]
    return CheckReport(
        tuple(report.id for report in reports),
        tuple(dict.fromkeys(problems)),  # a file shared by two pairs is named once
        sum(report.labelled for report in reports),
        tuple(reader.order()),
    )


def _check_all(
    subjects: Sequence[LongitudinalSubject],
    options: GateOptions,
    workers: int | None,
    advance: Callable[[int, int], None] | None,
) -> Iterator[SubjectReport]:
    count = workers or min(4, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(check_pair, subject, options) for subject in subjects]
        if advance is not None:
            for done, _ in enumerate(concurrent.futures.as_completed(futures), start=1):
                advance(done, len(futures))
        for future in futures:
            yield future.result()


def check_pair(subject: LongitudinalSubject, options: GateOptions = DEFAULT) -> SubjectReport:
    """Check one pair."""
    volumes, problems = inspect_subject(subject, options, order=1)
    return SubjectReport(
        subject.id,
        subject.patient,
        tuple(problems),
        {name: _digest(volumes[name]) for name in (BASELINE, FOLLOWUP) if name in volumes},
        {name: shown(path, subject.root) for name, path in subject.images.items()},
        subject.labelled and (TARGET in volumes or TARGET not in subject.masks),
    )


def _digest(volume: Volume) -> str:
    """Hash of the voxels of a scan, without its header."""
    shape = np.array(volume.data.shape, np.int64).tobytes()
    voxels = np.ascontiguousarray(volume.data.T)  # no copy for volumes as read
    return hashlib.blake2b(voxels.data, digest_size=16, salt=shape[:16]).hexdigest()


def _copies(reports: Sequence[SubjectReport]) -> Iterator[Problem]:
    """A problem for every copy of a scan under another patient.

    Such scans would be both trained and tested on.
    """
    places: dict[str, list[tuple[SubjectReport, str]]] = defaultdict(list)
    for report in reports:
        for name, digest in report.images.items():
            places[digest].append((report, name))
    for (first, first_name), *others in places.values():
        for report, name in others:
            if report.patient != first.patient:
                yield Problem(
                    "data.copy",
                    "the same voxels occur under two patients",
                    file=report.files[name],
                    field=f"{name} of {report.id}",
                    found=f"identical to {first_name} of {first.id}, {first.files[first_name]}",
                    expected="each scan once",
                    remedy="remove one, or give both the same patient",
                )
