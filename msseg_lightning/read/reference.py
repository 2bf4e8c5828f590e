"""References of new lesions, read without the scans where a file holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import (
    ADJUDICATED,
    CHANGE,
    RATER,
    TARGET,
    LongitudinalSubject,
)
from msseg_lightning.core.volume import Affine, Kind, Volume
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.nifti import DEFAULT, FileFacts, GateOptions, read_volume

CONSENSUS = "consensus"
"""Version of a reference that systems are trained on and, unless another is chosen, scored by."""
WITHOUT = "without_"
"""How names of leave-one-rater-out versions begin: ``without_rater1``."""
MOST_VOXELS = 1 << 22
"""Voxels of lesions that are kept in all, about 40 MB; a pair has a few thousand."""


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A mask as the places and values of its lesions."""

    shape: tuple[int, ...]
    where: NDArray[np.int64]
    values: NDArray[np.generic]
    affine: Affine
    kind: Kind

    @classmethod
    def of(cls, volume: Volume) -> _Kept:
        flat = np.asarray(volume.data).ravel(order="F")
        where = np.flatnonzero(flat)
        return cls(volume.data.shape, where, flat[where], volume.affine, volume.kind)

    def volume(self) -> Volume:
        flat = np.zeros(int(np.prod(self.shape)), self.values.dtype)
        flat[self.where] = self.values
        return Volume(flat.reshape(self.shape, order="F"), self.affine, self.kind)


_known: dict[str, _Kept] = {}


def read_reference(
    subject: LongitudinalSubject, options: GateOptions = DEFAULT, version: str = CONSENSUS
) -> Volume:
    """The mask of new lesions of a pair, as ``load_subject`` gives it.

    Only the mask's own file is read; where there is none but a mask of change, the whole pair is. A
    reference is decoded once per process as long as its files stay the same.

    Args:
        subject: a labelled pair.
        options: see ``load_subject``.
        version: ``consensus``, ``rater1``, ..., ``without_rater1``, ... (``majority`` of the other
            raters) or ``adjudicated`` (a corrected consensus).

    Raises:
        MssegError: the files are refused, or the pair has no such version (exit 3).
    """
    if version.startswith(WITHOUT):
        marks = rater_masks(subject, options)
        left_out = marks.pop(version.removeprefix(WITHOUT), None)
        if left_out is None or not marks:
            raise _no_version(subject, version)
        return majority(list(marks.values()))
    if version != CONSENSUS:
        own = subject.masks.get(f"{TARGET}_{version}")
        if own is None:
            raise _no_version(subject, version)
        others = {name: path for name, path in subject.masks.items() if name != CHANGE}
        subject = dataclasses.replace(subject, masks={**others, TARGET: own})
    subject = subject.with_raters(())
    own = subject.masks.get(TARGET)
    files = subject.files() if own is None else {TARGET: own}
    try:
        present = all(path.is_file() for path in files.values())
        hashes = {name: input_hash(path) for name, path in files.items()} if present else {}
    except OSError:  # the gate says what is wrong
        hashes = {}
    kept = _known.get(_key(subject, options, hashes))
    if kept is not None:
        return kept.volume()
    if own is None:
        loaded = load_subject(subject, options)
        volume, read = loaded.volumes[TARGET], dict(loaded.sha256)
    else:
        facts: dict[Path, FileFacts] = {}
        volume = read_volume(own, "mask", options, subject.root, facts=facts)
        read = {TARGET: facts[own].sha256}
    _keep(_key(subject, options, read), _Kept.of(volume))
    return volume


def rater_masks(subject: LongitudinalSubject, options: GateOptions = DEFAULT) -> dict[str, Volume]:
    """``rater1``, ... -> mask, of the raters whose masks a pair has.

    Raises:
        MssegError: a file is refused.
    """
    names = sorted(name for name in subject.masks if name.startswith(RATER))
    versions = [name.removeprefix(f"{TARGET}_") for name in names]
    return {version: read_reference(subject, options, version) for version in versions}


def majority(marks: Sequence[Volume]) -> Volume:
    """Voxels that more than half of the masks mark.

    Raises:
        MssegError: the masks lie on different grids (exit 3).
    """
    first = marks[0]
    if not all(mark.grid.same_as(first.grid) for mark in marks):
        raise MssegError(
            Problem(
                "reference.grids",
                "masks of raters of one pair lie on different grids",
                found=", ".join(str(mark.grid.shape) for mark in marks),
                expected="one grid for all raters of a pair",
                remedy="resample the masks to the grid of the reference",
                exit_code=ExitCode.DATA,
            )
        )
    votes = np.zeros(first.data.shape, np.uint8)
    for mark in marks:
        votes += np.asarray(mark.data) != 0
    return Volume((2 * votes > len(marks)).astype(np.uint8), first.affine, "mask")


def versions_of(subject: LongitudinalSubject) -> list[str]:
    """Versions of the reference that a pair has."""
    further = sorted(
        name.removeprefix(f"{TARGET}_")
        for name in subject.masks
        if name.startswith((RATER, ADJUDICATED))
    )
    raters = [name for name in further if name != "adjudicated"]
    without = [f"{WITHOUT}{name}" for name in raters] if len(raters) > 1 else []
    return [CONSENSUS, *further, *without]


def _no_version(subject: LongitudinalSubject, version: str) -> MssegError:
    found = ", ".join(versions_of(subject))
    return MssegError(
        Problem(
            "reference.version",
            "this pair has no such version of its reference",
            file=subject.id,
            field="evaluate.reference",
            found=version,
            expected=f"one of: {found}",
            remedy="take one of these, or add the mask to the data set",
            exit_code=ExitCode.DATA,
        )
    )


def has_new_lesions(subject: LongitudinalSubject, options: GateOptions = DEFAULT) -> bool | None:
    """Whether a pair has new lesions; None without a reference.

    Raises:
        MssegError: the files are refused.
    """
    return bool(read_reference(subject, options).data.any()) if subject.labelled else None


def _key(subject: LongitudinalSubject, options: GateOptions, hashes: Mapping[str, str]) -> str:
    transforms = sorted((name, transform.tolist()) for name, transform in subject.to_native.items())
    files = sorted((name, str(path)) for name, path in subject.files().items())
    return repr(
        (files, str(subject.root), subject.registered, transforms, options, sorted(hashes.items()))
    )


def _keep(key: str, kept: _Kept) -> None:
    _known[key] = kept
    while len(_known) > 1 and sum(len(one.where) for one in list(_known.values())) > MOST_VOXELS:
        _known.pop(next(iter(_known)), None)  # the oldest
