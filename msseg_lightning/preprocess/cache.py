"""Prepared pairs on disk, each made once, named by what it was made from."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from msseg_lightning.core.files import flush_folder
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.preprocess.pipeline import Load, Preprocess

T = TypeVar("T")
log = logging.getLogger(__name__)

SHOW_AFTER_S = 2.0
"""A progress bar for less is noise."""


class PreparedCache:
    """A folder of prepared pairs, safe for several processes and for being killed.

    An entry is written into a temporary folder beside its place and renamed into it, under a lock
    of its own, so it is absent or whole. It carries the checksum of each of its arrays; an entry
    that does not open, or does not match its checksums, is built again.

    Args:
        folder: where entries lie; may be shared between experiments.
        preprocess: the chain. One that learns (Nyul) must be fitted first.
        load: reads a pair.
        workers: processes; each holds about one pair in memory at a time.
        verify: compare checksums whenever an entry is taken from disk (about 0.3 s per GB).
    """

    def __init__(
        self,
        folder: Path,
        preprocess: Preprocess,
        load: Load,
        workers: int = 1,
        verify: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.preprocess = preprocess
        self.load = load
        self.workers = max(1, workers)
        self.verify = verify

    def place(self, subject: LongitudinalSubject) -> Path:
        """Folder of this pair's entry, whether it exists or not."""
        return self.folder / f"{subject.id}-{self.preprocess.key(subject)[:24]}"

    def prepare(self, subjects: Sequence[LongitudinalSubject]) -> list[PreparedSubject]:
        """Prepared pairs in the order given; builds those that are missing.

        Raises:
            MssegError: all problems of all pairs, each naming its pair.
        """
        if self.workers > 1 and len(subjects) > 1:
            problems = self._build_all(subjects)
        else:
            problems = []
            for subject in _progress(subjects, len(subjects)):
                problems += self._build(subject)
        if problems:
            raise MssegError(problems)
        return [PreparedSubject.open(self.place(subject)) for subject in subjects]

    def prepare_one(self, subject: LongitudinalSubject) -> PreparedSubject:
        """One pair, built if missing."""
        return self.prepare([subject])[0]

    def _build(self, subject: LongitudinalSubject) -> list[Problem]:
        try:
            self._ensure(subject)
        except MssegError as error:
            return list(error.problems)
        except (OSError, MemoryError) as error:
            return [
                Problem(
                    "preprocess.environment",
                    f"{subject.id} could not be prepared: {error or 'out of memory'}",
                    file=self.folder,
                    field=subject.id,
                    remedy="check free space, memory and permissions, or set paths.cache=OTHER",
                    exit_code=ExitCode.ENVIRONMENT,
                )
            ]
        except Exception as error:
            log.exception("preprocessing %s failed", subject.id)
            return [
                Problem(
                    "preprocess.failed",
                    f"preprocessing {subject.id} failed: {error!r}",
                    field=subject.id,
                    remedy="leave this pair out or report the error with its log",
                    exit_code=ExitCode.INTERNAL,
                )
            ]
        return []

    def _ensure(self, subject: LongitudinalSubject) -> None:
        if not all(file.is_file() for file in subject.files().values()):
            self.load(subject)  # says what is wrong; hashing a named pipe would wait for ever
        place = self.place(subject)
        if self._whole(place):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{place.name}.lock"):
            if self._whole(place):  # another process made it while we waited
                return
            if place.exists():
                log.warning("%s is damaged and is built again", place.name)
                shutil.rmtree(place)
            temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
            try:
                prepared = self.preprocess.run(self.load(subject))
                PreparedSubject.write(prepared, temporary)
                temporary.chmod(0o777 & ~_umask())
                temporary.rename(place)
                flush_folder(self.folder)
            finally:
                if temporary.exists():
                    shutil.rmtree(temporary, ignore_errors=True)

    def _whole(self, place: Path) -> bool:
        if not place.is_dir():
            return False
        try:
            entry = PreparedSubject.open(place)
            if self.verify:
                entry.verify()
        except MssegError:
            return False
        return True

    def _build_all(self, subjects: Sequence[LongitudinalSubject]) -> list[Problem]:
        """Build in worker processes; a worker that dies costs one more try, alone."""
        problems: list[Problem] = []
        lost: list[LongitudinalSubject] = []
        # spawned, not forked: a fork copies the locks of threads that ITK and BLAS hold
        with ProcessPoolExecutor(
            min(self.workers, len(subjects)), get_context("spawn"), _single_threaded
        ) as pool:
            futures = {pool.submit(self._build, subject): subject for subject in subjects}
            for future in _progress(as_completed(futures), len(futures)):
                try:
                    problems += future.result()
                except BrokenProcessPool:
                    lost.append(futures[future])
        for subject in lost:
            log.warning("a worker died while %s was prepared or waiting: trying alone", subject.id)
            with ProcessPoolExecutor(1, get_context("spawn"), _single_threaded) as pool:
                try:
                    problems += pool.submit(self._build, subject).result()
                except BrokenProcessPool:
                    problems.append(
                        Problem(
                            "preprocess.killed",
                            f"the process preparing {subject.id} was killed twice",
                            field=subject.id,
                            remedy="free memory: this pair needs more than there is",
                            exit_code=ExitCode.ENVIRONMENT,
                        )
                    )
        return problems


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def _single_threaded() -> None:
    """Threads of a worker would fight with the other workers."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _progress(items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """Pass items on; a progress bar appears once they take longer than two seconds."""
    from rich.progress import Progress

    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        bar: Progress | None = None
        for count, item in enumerate(items):
            if bar is None and time.monotonic() - begun > SHOW_AFTER_S:
                bar = stack.enter_context(Progress(transient=True))
                task = bar.add_task("preparing", total=total)
            if bar is not None:
                bar.update(task, completed=count)
            yield item
