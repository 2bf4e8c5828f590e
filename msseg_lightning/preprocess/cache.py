"""Cache of prepared pairs on disk, keyed by inputs and preprocessing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from msseg_lightning.core.files import flush_folder
from msseg_lightning.core.input_hash import changed_input
from msseg_lightning.core.locks import require_locks
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject
from msseg_lightning.core.subject_map import MapResult, SupportsSubmit, map_subjects
from msseg_lightning.core.temporary import temporary_folder
from msseg_lightning.preprocess.pipeline import Load, Preprocess, file_hashes

log = logging.getLogger(__name__)


class PreparedCache:
    """A folder of prepared pairs, safe for several processes and for being killed.

    An entry is written into a temporary folder beside its place and renamed into it, under a lock
    of its own, so it is absent or whole; its files are flushed first. It carries the checksum of
    each of its arrays; an entry that does not open, or does not match its checksums (whatever a
    power cut or a failing disk left of it), is built again.

    Args:
        folder: where entries lie; may be shared between experiments.
        preprocess: the chain. One that learns (Nyul) must be fitted first.
        load: reads a pair.
        workers: processes; each holds about one pair in memory at a time.
        verify: compare checksums whenever an entry is taken from disk (about 0.3 s per GB).
        raters: masks of single raters that are prepared too; the others are never read.
    """

    def __init__(
        self,
        folder: Path,
        preprocess: Preprocess,
        load: Load,
        workers: int = 1,
        verify: bool = True,
        raters: Collection[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.preprocess = preprocess
        self.load = load
        self.workers = max(1, workers)
        self.verify = verify
        self.raters = frozenset(raters)

    def place(self, subject: LongitudinalSubject) -> Path:
        """Folder of the entry of a pair, whether it exists or not."""
        subject = subject.with_raters(self.raters)
        return self._place(subject, file_hashes(subject))

    def prepare(
        self, subjects: Sequence[LongitudinalSubject], executor: SupportsSubmit | None = None
    ) -> list[PreparedSubject]:
        """Return prepared pairs in the order given; build those that are missing.

        Args:
            subjects: pairs.
            executor: builds them elsewhere than in ``workers`` processes; it needs the same disk.

        Raises:
            MssegError: all problems of all pairs, each naming its pair.
        """
        self.build(subjects, executor).all_done()
        return [PreparedSubject.open(self.place(subject)) for subject in subjects]

    def build(
        self,
        subjects: Sequence[LongitudinalSubject],
        executor: SupportsSubmit | None = None,
        pieces: int | None = None,
    ) -> MapResult[None]:
        """Build missing entries; report the pairs that exist now and the errors of the others."""
        named = {subject.id: subject.with_raters(self.raters) for subject in subjects}
        missing = dict(named)
        if executor is None:  # starting processes takes seconds and may not be necessary
            with ThreadPoolExecutor(self.workers) as threads:
                made = threads.map(self._is_prepared, named.values())
                missing = {
                    name: named[name]
                    for name, is_made in zip(named, made, strict=True)
                    if not is_made
                }
        built = map_subjects(self._ensure, missing, executor or self.workers, "preprocess", pieces)
        done = {name: None for name in named if name not in built.failed}
        return MapResult(done, built.failed)

    def prepare_one(self, subject: LongitudinalSubject) -> PreparedSubject:
        """Return one prepared pair; build it if missing."""
        return self.prepare([subject])[0]

    def _ensure(self, subject: LongitudinalSubject) -> None:
        if not all(file.is_file() for file in subject.files().values()):
            self.load(subject)  # reports the error; hashing a named pipe would block
        hashes = file_hashes(subject)
        place = self._place(subject, hashes)
        if self._is_complete(place):
            return
        require_locks(self.folder)
        with FileLock(self.folder / f".{place.name}.lock"):
            if self._is_complete(place):  # another process made it while we waited
                return
            if place.exists():
                log.warning("%s is damaged and is built again", place.name)
                shutil.rmtree(place)
            with temporary_folder(place) as temporary:
                loaded = self.load(subject)
                _refuse_changed(loaded, hashes)
                PreparedSubject.write(self.preprocess.run(loaded), temporary)
                temporary.rename(place)
                flush_folder(self.folder)

    def _is_prepared(self, subject: LongitudinalSubject) -> bool:
        """Whether the entry of a pair exists; False on errors, which ``_ensure`` raises."""
        if not all(file.is_file() for file in subject.files().values()):
            return False
        try:
            return self._is_complete(self.place(subject))
        except (MssegError, OSError):
            return False

    def _place(self, subject: LongitudinalSubject, hashes: Mapping[str, str]) -> Path:
        return self.folder / f"{subject.id}-{self.preprocess.key(subject, hashes)[:24]}"

    def _is_complete(self, place: Path) -> bool:
        if not place.is_dir():
            return False
        try:
            entry = PreparedSubject.open(place)
            if self.verify:
                entry.verify()
        except MssegError:
            return False
        return True


def _refuse_changed(loaded: LoadedSubject, hashes: Mapping[str, str]) -> None:
    """Refuse a pair whose files changed since the key of the entry was computed.

    Raises:
        MssegError: with every file that was replaced in between (exit 3).
    """
    files = loaded.subject.files()
    changed = [name for name, found in loaded.sha256.items() if found != hashes[name]]
    if changed:
        raise MssegError([changed_input(loaded.subject.id, name, files[name]) for name in changed])
