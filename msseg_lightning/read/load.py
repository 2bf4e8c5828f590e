"""Loading of pairs, and derivation of new lesions from change masks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    CHANGE,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.read.gate import inspect_subject
from msseg_lightning.read.geometry import in_order_of
from msseg_lightning.read.nifti import DEFAULT, FileFacts, GateOptions

logger = logging.getLogger(__name__)


def load_subject(subject: LongitudinalSubject, options: GateOptions = DEFAULT) -> LoadedSubject:
    """Read and check a pair.

    The native grid, where predictions are delivered, is that of the target mask where there is
    one, else that of the follow-up; for pairs with known transforms it is the common grid of the
    masks. Volumes are stored in the axis order of the native grid. Images with a known transform
    are resampled once, onto the common grid. A change mask becomes ``new_lesions``.

    Raises:
        MssegError: with everything that is wrong with the pair.
    """
    facts: dict[Path, FileFacts] = {}
    volumes, problems = inspect_subject(subject, options, facts=facts)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise MssegError(errors)
    for problem in problems:  # a pair without new lesions is as good as any other
        logger.log(
            logging.DEBUG if problem.code == "mask.empty" else logging.WARNING, "%s", problem
        )
    notes = [str(problem) for problem in problems]
    files = subject.files()
    native = facts[files[_native_name(subject)]].native
    volumes = {name: in_order_of(volume, native.grid.affine) for name, volume in volumes.items()}
    change = volumes.pop(CHANGE, None)
    if change is not None and TARGET not in volumes:
        brain = volumes.get(BRAIN)
        new, kept, lesions = new_lesions_of_change(
            change.data,
            volumes[BASELINE].data,
            volumes[FOLLOWUP].data,
            None if brain is None else brain.data,
        )
        volumes[TARGET] = Volume(new, change.affine, "mask")
        notes.append(f"{kept} of {lesions} changed lesions are brighter at follow-up: new lesions")
    sha256 = {name: facts[path].sha256 for name, path in files.items()}
    return LoadedSubject(subject, volumes, native, notes=tuple(notes), sha256=sha256)


def new_lesions_of_change(
    change: NDArray[np.generic],
    baseline: NDArray[np.generic],
    followup: NDArray[np.generic],
    brain: NDArray[np.generic] | None = None,
) -> tuple[NDArray[np.uint8], int, int]:
    """The part of a change mask in which lesions appeared or grew.

    Each connected component (through faces) is kept when the mean of follow-up minus baseline
    inside it is positive, both z-normalised in the brain. A component in which one lesion grew
    while its neighbour shrank counts by its mean; the mask holds no finer information.

    Args:
        change: (X, Y, Z) mask of change in both directions.
        baseline: (X, Y, Z) image.
        followup: (X, Y, Z) image.
        brain: (X, Y, Z) mask for the normalisation; where missing, voxels above the mean.

    Returns:
        (X, Y, Z) mask, how many components were kept, and of how many.

    Reference:
        Lesjak et al. 2016, Neuroinformatics (the data); the sign rule is ours.
    """
    before, after = (_standardised(image, brain) for image in (baseline, followup))
    labels, count = label_lesions(change)
    if count == 0:
        return np.zeros(change.shape, np.uint8), 0, 0
    where = np.flatnonzero(labels)
    component = labels.ravel()[where]
    difference = (after - before).ravel()[where]
    total = np.bincount(component, difference, minlength=count + 1)
    keep = total > 0  # the sign of the sum is the sign of the mean
    keep[0] = False
    return keep[labels].astype(np.uint8), int(keep.sum()), count


def _native_name(subject: LongitudinalSubject) -> str:
    candidates = (TARGET, CHANGE, BRAIN) if subject.to_native else (TARGET, CHANGE)
    return next((name for name in candidates if name in subject.masks), FOLLOWUP)


def _standardised(
    image: NDArray[np.generic], brain: NDArray[np.generic] | None
) -> NDArray[np.float32]:
    values = np.asarray(image, np.float32)
    # a raw scan may not cover the whole brain; what lies outside it was filled with 0
    inside = (
        (np.asarray(brain) != 0) & (values > 0) if brain is not None else values > values.mean()
    )
    tissue = values[inside]
    if tissue.size == 0 or tissue.std() == 0:
        return np.zeros_like(values)
    return np.asarray((values - tissue.mean()) / tissue.std(), np.float32)
