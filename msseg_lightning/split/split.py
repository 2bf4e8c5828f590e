"""A division of a data set into pairs for training, validation and test, and its file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from msseg_lightning.core.files import write_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject

PARTS = ("train", "val", "test")
_EDGE_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Split:
    """A division of a data set, by ids of pairs. No patient has pairs in two parts.

    Args:
        train: for fitting.
        val: for choosing checkpoints and settings; may be empty.
        test: held out.
        kind: what made it, e.g. ``kfold``.
        fold: which of its folds.
        seed: of the shuffling.
        data_hash: of the data it belongs to.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    kind: str
    fold: int
    seed: int
    data_hash: str


def data_hash(subjects: Iterable[LongitudinalSubject]) -> str:
    """16 hex digits that change when ids, patients or files change; cheap on large data sets.

    Of each file the name, the size, and the first and last 4 KiB count. A gzip stream ends with
    the checksum and the length of all it holds, so no voxel changes unnoticed; uncompressed files
    are hashed whole.
    """
    digest = hashlib.sha256()
    for subject in sorted(subjects, key=lambda subject: subject.id):
        digest.update(f"{subject.id}\0{subject.patient}\0".encode())
        for name, transform in sorted(subject.to_native.items()):
            digest.update(
                f"{name}\0".encode() + np.ascontiguousarray(transform, np.float64).tobytes()
            )
        for name, path in sorted(subject.files().items()):
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as stream:
                head = stream.read(_EDGE_BYTES)
                digest.update(head)
                if head[:2] == b"\x1f\x8b":
                    stream.seek(max(0, path.stat().st_size - _EDGE_BYTES))
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


def write_split(path: Path, split: Split) -> None:
    """Write a split file; :class:`msseg_lightning.split.from_file.FromFile` reads it."""
    write_record(path, dataclasses.asdict(split))


def check_fold(fold: int, folds: int) -> None:
    """Check that a fold exists.

    Raises:
        MssegError: there is no such fold (exit 2).
    """
    if not 0 <= fold < folds:
        raise MssegError(
            Problem(
                "split.fold",
                "there is no such fold",
                field="fold",
                found=str(fold),
                expected=f"0 to {folds - 1}",
                remedy="fold=0",
                exit_code=ExitCode.CONFIG,
            )
        )
