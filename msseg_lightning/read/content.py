"""Checks of what scans and brain masks show: one person, two scans, whole, plausible values.

Limits were set on the public pairs of open_ms and on simulated ones, see docs/reliability.md. What
only looks unusual is a warning; what no scanner makes is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume

SAMPLE = 50_000
"""Voxels of which a copy is told from a second scan; only where they agree all are compared."""
ROUNDING = 1e-3
"""Standard deviations by which a rescaled copy may differ from a function of the original."""
LEAST_LIKENESS = 0.6
"""Correlation of fine structure that two scans of one person have; see ``read.mirror``."""
MISSING_SLICES = 0.25
"""Share of the slices with tissue that may be empty in the other visit."""
MASKED_SHARE = 0.15
"""Share of the head of one visit that may be empty in the other, in slices that are not."""
LARGEST_RATIO = 1000.0
"""Largest value relative to the 99.9th percentile; scans of open_ms have at most 2.3."""

Name = Callable[[str], str]


def check_images(volumes: Mapping[str, Volume], name: Name) -> Iterator[Problem]:
    """Problems of single scans and of the brain mask.

    Args:
        volumes: of one pair, in one order of axes.
        name: file of a volume as it is shown.
    """
    for visit in (BASELINE, FOLLOWUP):
        if visit in volumes:
            yield from _check_range(np.asarray(volumes[visit].data), name(visit))
    brain, scan = volumes.get(BRAIN), volumes.get(FOLLOWUP)
    if brain is not None and scan is not None and brain.data.shape == scan.data.shape:
        yield from _check_brain(np.asarray(brain.data) != 0, np.asarray(scan.data), name(BRAIN))


def check_visits(
    baseline: Volume, followup: Volume, likeness: float, name: Name
) -> Iterator[Problem]:
    """Problems of two visits on one grid.

    Args:
        baseline: image.
        followup: image.
        likeness: correlation of their fine structure, from ``read.mirror``.
        name: file of a volume as it is shown.
    """
    data = {BASELINE: np.asarray(baseline.data), FOLLOWUP: np.asarray(followup.data)}
    heads = {visit: head_of(image) for visit, image in data.items()}
    if _is_rescaled(data[BASELINE], data[FOLLOWUP]):
        yield Problem(
            "content.same_scan",
            "the follow-up is the baseline with other intensities",
            file=name(FOLLOWUP),
            field="voxel values",
            found=f"a function of the values of {name(BASELINE)}, without noise",
            expected="two scans",
            remedy="put the second scan in its place",
        )
        return
    if not all(map(_is_dark_around, heads.values())):  # cut to the head, or with inverted values
        return
    found = list(_check_parts(data, heads, name))
    yield from found
    if not found and likeness < LEAST_LIKENESS:
        yield Problem(
            "content.other_person",
            "the visits have little in common: another person, or not registered",
            file=name(FOLLOWUP),
            field="voxel values",
            found=f"correlation {likeness:.2f} of the fine structure",
            expected=f"at least {LEAST_LIKENESS}",
            remedy="put the scan of this person in its place, or register the pair; look at both "
            "scans together",
            severity="warning",
        )


def _check_range(image: NDArray[np.generic], file: str) -> Iterator[Problem]:
    step = max(1, round((image.size / SAMPLE) ** (1 / 3)))
    sample = np.abs(np.asarray(image[::step, ::step, ::step], np.float64))
    sample = sample[sample > 0]
    if not sample.size:
        return
    usual = float(np.percentile(sample, 99.9))
    highest = max(abs(float(image.max())), abs(float(image.min())))
    if highest > LARGEST_RATIO * usual:
        yield Problem(
            "content.range",
            "a value is far beyond all others",
            file=file,
            field="voxel values",
            found=f"{highest:.3g}, 99.9 % are below {usual:.3g}",
            expected=f"at most {LARGEST_RATIO:g} times as much",
            remedy="export the scan again, or set these voxels to the values of their neighbours",
        )


def _check_brain(
    brain: NDArray[np.bool_], image: NDArray[np.generic], file: str
) -> Iterator[Problem]:
    head = head_of(image)
    if not head.any() or head.mean() > 0.99:
        return
    tissue, empty = float(brain[head].mean()), float(brain[~head].mean())
    if empty > tissue:
        yield Problem(
            "content.brain_mask",
            "the brain mask covers what is dark around the head rather than the head",
            file=file,
            field="voxel values",
            found=f"{empty:.0%} of the dark voxels, {tissue:.0%} of the bright ones",
            expected="1 in the brain",
            remedy="exchange 0 and 1, or leave the mask out: systems find the brain themselves",
        )


def _check_parts(
    data: Mapping[str, NDArray[np.generic]], heads: Mapping[str, NDArray[np.bool_]], name: Name
) -> Iterator[Problem]:
    for visit, other in ((FOLLOWUP, BASELINE), (BASELINE, FOLLOWUP)):
        empty = data[visit] == data[visit].min()
        slices, masked = max(_missing(empty, heads[other], axis) for axis in range(3))
        if masked > MASKED_SHARE:
            yield Problem(
                "content.masking",
                "one visit is masked and the other is not",
                file=name(visit),
                field="voxel values",
                found=f"empty in {masked:.0%} of the head of {name(other)}",
                expected="both visits with skull, or both without",
                remedy="make both visits alike: mask both, or neither",
                severity="warning",
            )
            return
        if slices > MISSING_SLICES:
            yield Problem(
                "content.empty_part",
                "a part of the scan is empty",
                file=name(visit),
                field="voxel values",
                found=f"{slices:.0%} of the slices in which {name(other)} shows the head",
                expected=f"at most {MISSING_SLICES:.0%}",
                remedy="export the scan again, or put a whole scan in its place",
            )
            return


def _missing(empty: NDArray[np.bool_], head: NDArray[np.bool_], axis: int) -> tuple[float, float]:
    """Share of the slices with some head that are empty, and of the head that is in the others."""
    others = tuple(one for one in range(3) if one != axis)
    shown = head.mean(others) > 0.05
    gone: NDArray[np.bool_] = np.asarray(empty.all(others))
    left = np.moveaxis(head, axis, 0)[~gone]
    lost = np.moveaxis(empty, axis, 0)[~gone][left]
    return (
        float(gone[shown].mean()) if shown.any() else 0.0,
        float(lost.mean()) if lost.size else 0.0,
    )


def _is_dark_around(head: NDArray[np.bool_]) -> bool:
    """Whether most of the surface of the volume lies outside the head."""
    faces = [np.take(head, end, axis) for axis in range(3) for end in (0, -1)]
    return sum(face.sum() for face in faces) < 0.5 * sum(face.size for face in faces)


def _is_rescaled(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    """Whether the values of an image are a monotone function of those of another one."""
    flat, partner = one.ravel(), other.ravel()
    step = max(1, flat.size // SAMPLE)
    steps = (step, 1) if step > 1 else (1,)
    return all(_is_function(flat[::each], partner[::each]) for each in steps)


def _is_function(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    values = np.asarray(other, np.float64)
    order = np.lexsort((values, one))
    limit = ROUNDING * float(values.std())
    for sign in (1.0, -1.0):
        ordered = sign * values[order if sign > 0 else np.lexsort((-values, one))]
        if float((np.maximum.accumulate(ordered) - ordered).max()) <= limit:
            return True
    return False


def head_of(image: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Rough mask of the head: voxels brighter than a quarter of the mean of the bright half."""
    values = np.asarray(image, np.float32)
    bright = values[values > values.mean()]
    return values > 0.25 * float(bright.mean()) if bright.size else np.zeros(values.shape, bool)
