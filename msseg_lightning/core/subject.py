"""A pair of visits of one patient, as files and as loaded volumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from msseg_lightning.core.volume import Affine, Grid, Volume

BASELINE = "baseline_flair"
FOLLOWUP = "followup_flair"
TARGET = "new_lesions"
"""The consensus mask of new lesions."""
RATER = f"{TARGET}_rater"
"""How names of single raters' masks begin: ``new_lesions_rater1`` .. ``new_lesions_rater4``."""
ADJUDICATED = f"{TARGET}_adjudicated"
"""A corrected consensus, kept beside the one that was published."""
BRAIN = "brain"
BASELINE_LESIONS = "baseline_lesions"
FOLLOWUP_LESIONS = "followup_lesions"
CHANGE = "change"
"""Mask of lesion change in both directions; new lesions are derived from it on loading."""

MASK_NAMES = (TARGET, BRAIN, BASELINE_LESIONS, FOLLOWUP_LESIONS)


@dataclasses.dataclass(frozen=True)
class Facts:
    """Metadata of a pair: sex, age, scanner and interval, but no dates."""

    sex: str | None = None
    age_years: float | None = None
    site: str | None = None
    vendor: str | None = None
    field_strength_t: float | None = None
    interval_days: float | None = None


@dataclasses.dataclass(frozen=True)
class LongitudinalSubject:
    """A pair of visits on disk.

    Args:
        id: unique in a data set, ``[A-Za-z0-9_-]{1,64}``.
        patient: who it is; pairs of one patient are never split apart.
        images: name -> file, e.g. ``baseline_flair``, ``followup_flair``.
        masks: name -> file, e.g. ``new_lesions``, ``brain``.
        facts: covariates where known.
        to_native: name -> 4x4 RAS matrix that maps a point of the common space of the masks to the
            world of that image's file, for pairs that come with a known registration. An image
            without an entry lies in the common space already.
        reversed_time: the visits were exchanged on reading (vanished lesions become new ones).
        root: data root; paths are shown relative to it.
        registered: the data set states that both visits lie on one grid, as the challenge does;
            a pair that does not is refused. Others are registered by preprocessing.
    """

    id: str
    patient: str
    images: Mapping[str, Path]
    masks: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    facts: Facts = Facts()
    to_native: Mapping[str, Affine] = dataclasses.field(default_factory=dict)
    reversed_time: bool = False
    root: Path | None = None
    registered: bool = False

    @property
    def labelled(self) -> bool:
        """Whether a reference of new lesions is given or can be derived."""
        return TARGET in self.masks or CHANGE in self.masks

    def files(self) -> dict[str, Path]:
        """All files of the pair, by name."""
        return {**self.images, **self.masks}

    def with_raters(self, names: Collection[str]) -> LongitudinalSubject:
        """The same pair with only those further versions of the reference that are named."""
        masks = {
            name: path
            for name, path in self.masks.items()
            if not name.startswith((RATER, ADJUDICATED)) or name in names
        }
        return dataclasses.replace(self, masks=masks)


@dataclasses.dataclass(frozen=True)
class Native:
    """Grid and header of the scan on which predictions are returned.

    Args:
        grid: lattice of the file the prediction belongs to.
        header: NIfTI-1 header of that file with geometry only (no text fields), as bytes.
    """

    grid: Grid
    header: bytes


@dataclasses.dataclass(frozen=True)
class LoadedSubject:
    """A pair in memory, during preprocessing.

    Preprocessing may move, resample and crop; all of it is undone by one resampling because every
    volume carries its affine and the subject carries the rigid transform to the original scan.

    Args:
        subject: where it came from.
        volumes: name -> volume. They share one grid after registration, not necessarily before.
        native: where predictions belong.
        to_native: (4, 4) world of the working space -> world of the native grid; the identity
            unless a registration moved the native image.
        notes: remarks on the preprocessing, which are copied to the prediction.
        sha256: name of a file -> hex digest of the bytes that were read.
    """

    subject: LongitudinalSubject
    volumes: Mapping[str, Volume]
    native: Native
    to_native: Affine = dataclasses.field(default_factory=lambda: np.eye(4))
    notes: tuple[str, ...] = ()
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The common grid of all volumes.

        Raises:
            ValueError: the volumes do not share one.
        """
        grids = [volume.grid for volume in self.volumes.values()]
        if not all(grids[0].same_as(grid) for grid in grids[1:]):
            raise ValueError(f"{self.subject.id}: volumes lie on different grids; register first")
        return grids[0]

    def replace(self, *notes: str, **changes: object) -> LoadedSubject:
        """A changed copy; notes are appended."""
        return dataclasses.replace(self, notes=self.notes + notes, **changes)  # type: ignore[arg-type]  # checked by callers
