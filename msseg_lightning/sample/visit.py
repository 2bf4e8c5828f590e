"""Single visits of prepared pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.prepared import CANDIDATES, PreparedSubject
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import BASELINE, BASELINE_LESIONS, FOLLOWUP, FOLLOWUP_LESIONS

FLAIR = "flair"
LESIONS = "lesions"
OF_VISIT = {BASELINE: BASELINE_LESIONS, FOLLOWUP: FOLLOWUP_LESIONS}


class Visit(PreparedSubject):
    """One visit of a prepared pair, with its volumes also named flair and lesions.

    Samplers and augmentation take it as they take any prepared subject.

    Args:
        subject: a pair, or a subject of one visit; nothing is copied.
        image: its scan that is called ``flair``.
        lesions: its mask that is called ``lesions``.
    """

    def __init__(self, subject: PreparedSubject, image: str, lesions: str) -> None:
        self.__dict__.update(subject.__dict__)
        self.scan = image
        self._renamed = {FLAIR: image, LESIONS: lesions}
        self.layers = {
            **subject.layers,
            **{name: subject.layer(known) for name, known in self._renamed.items()},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder itself and names the volumes again."""
        return _opened, (self.folder.absolute(), self._renamed[FLAIR], self._renamed[LESIONS])

    def voxels(self, name: str, limit: int = CANDIDATES) -> NDArray[np.int32]:
        """See ``PreparedSubject``; also by the names flair and lesions."""
        return super().voxels(self._renamed.get(name, name), limit)


def _opened(folder: Path, image: str, lesions: str) -> Visit:
    return Visit(PreparedSubject.open(folder), image, lesions)


class VisitSource(Protocol):
    """Protocol of further prepared scans, as ``preprocess.visits.PreparedVisits``."""

    def subjects(self) -> list[PreparedSubject]:
        """All scans."""


def visits_of(
    subjects: Sequence[PreparedSubject], visits: VisitSource | None = None
) -> list[Visit]:
    """Every scan that has a mask of all its lesions: up to two of each subject, in order.

    Args:
        subjects: pairs, or subjects of one visit.
        visits: scans taken in place of them, where it has any.

    Raises:
        MssegError: no scan has a mask with a lesion.
    """
    chosen = (visits.subjects() if visits is not None else []) or subjects
    found = [
        Visit(subject, image, lesions)
        for subject in chosen
        for image, lesions in OF_VISIT.items()
        if image in subject.image_names and lesions in subject.mask_names
    ]
    if any(len(visit.voxels(LESIONS)) for visit in found):
        return found
    raise MssegError(
        Problem(
            "data.no_visits",
            "no scan has a mask of all its lesions",
            field=" / ".join(OF_VISIT.values()),
            found=f"{len(found)} empty masks of {len(chosen)} subjects",
            expected="scans with all lesions outlined",
            remedy="give such scans, or let preprocessing mark hyperintense places "
            "(preprocess.steps.lesions: PseudoLesions)",
        )
    )
