"""Verify a data set: every file through the gate, all problems at once."""

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


class Source(Protocol):
    """A reader, as far as a check needs it."""

    def subjects(self) -> list[LongitudinalSubject]:
        """The pairs."""

    def skipped(self) -> list[Problem]:
        """What was left out."""

    def order(self) -> list[str]:
        """Which visits were taken for the earlier ones, and why."""


@dataclasses.dataclass(frozen=True)
class SubjectReport:
    """What the gate found in one pair.

    Args:
        id: of the pair.
        patient: who it is.
        problems: errors and warnings.
        images: name -> digest of its voxels, to find copies among patients.
        files: name -> the file as shown.
        labelled: it has a reference of new lesions.
    """

    id: str
    patient: str
    problems: tuple[Problem, ...]
    images: Mapping[str, str]
    files: Mapping[str, str]
    labelled: bool


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What was found in a data set.

    Args:
        subjects: ids of the pairs that were checked.
        problems: errors and warnings, in order of the pairs.
        labelled: number of pairs with a reference.
        order: which visits were taken for the earlier ones, and why.
    """

    subjects: tuple[str, ...]
    problems: tuple[Problem, ...]
    labelled: int
    order: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What refuses the data set."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What was accepted with a remark."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def exit_code(self) -> ExitCode:
        """0, or that of the errors."""
        return MssegError(self.errors).exit_code if self.errors else ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """The same as a JSON record."""
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
    reader: Source,
    options: GateOptions = DEFAULT,
    workers: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check every pair a reader finds.

    Nothing stops at the first problem: also when the layout itself has errors they are all in the
    report, though pairs cannot be listed then.

    Args:
        reader: of the data set.
        options: of the gate.
        workers: threads (unpacking and comparing release the interpreter); None takes one per
            processor, at most 4, since each holds a whole pair.
        advance: called with the number of pairs done and of all pairs.
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
    """The gate on one pair."""
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
    """Of the voxels alone: the same scan under another header is still the same scan."""
    shape = np.array(volume.data.shape, np.int64).tobytes()
    voxels = np.ascontiguousarray(volume.data.T)  # no copy for volumes as read
    return hashlib.blake2b(voxels.data, digest_size=16, salt=shape[:16]).hexdigest()


def _copies(reports: Sequence[SubjectReport]) -> Iterator[Problem]:
    """Scans that occur under several patients: they would leak from training into testing.

    Every place of the same voxels under another patient than the first place's is named.
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
