"""Consistency checks of the files of a pair."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.paths import shown
from msseg_lightning.core.problem import Problem
from msseg_lightning.core.subject import (
    ADJUDICATED,
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    CHANGE,
    FOLLOWUP,
    RATER,
    TARGET,
    LongitudinalSubject,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.read.content import check_images, check_visits, head_of
from msseg_lightning.read.geometry import in_order_of, resample_through
from msseg_lightning.read.mirror import looks_mirrored
from msseg_lightning.read.nifti import DEFAULT, FileFacts, GateOptions, inspect_volume

LARGEST_BRAIN_FRACTION = 0.98
"""Largest plausible share of brain voxels; a tightly cropped brain fills half of its box."""

DARKER_SD = 0.2
"""Standard deviations by which new lesions must have become darker to cause a warning."""


def check_subject(subject: LongitudinalSubject, options: GateOptions = DEFAULT) -> list[Problem]:
    """All errors and warnings of the files of a pair."""
    return inspect_subject(subject, options, order=1)[1]


def inspect_subject(
    subject: LongitudinalSubject,
    options: GateOptions = DEFAULT,
    order: int = 3,
    facts: dict[Path, FileFacts] | None = None,
) -> tuple[dict[str, Volume], list[Problem]]:
    """Read all files of a pair, check each and compare them with each other.

    A subject of one visit (see ``read.single_timepoint``) is its follow-up scan and masks.

    Args:
        subject: the pair.
        options: exceptions to the default rules.
        order: of the splines by which images with a known transform are resampled.
        facts: where given, those of every file that could be unpacked are put there.

    Returns:
        The volumes that could be read, in one storage order (that of the follow-up, or of the
        masks where the pair comes with transforms), images moved to the common lattice where
        transforms are given; and all problems.
    """
    volumes: dict[str, Volume] = {}
    problems = list(_check_facts(subject))
    names = sorted(subject.masks, key=lambda name: name != BRAIN)  # the brain helps to judge NaN
    for name in names:
        limit = LARGEST_BRAIN_FRACTION if name == BRAIN else options.largest_mask_fraction
        allowed = dataclasses.replace(options, largest_mask_fraction=limit)
        if name == BRAIN:
            allowed = dataclasses.replace(allowed, soft_labels=False)
        if not is_reference(name):
            allowed = dataclasses.replace(allowed, label_values={})
        volume, found = inspect_volume(
            subject.masks[name], "mask", allowed, subject.root, facts=facts
        )
        if not is_reference(name):
            found = [_plain_values(item, name) for item in found]
        if name == BRAIN:
            found = [_no_brain(item) if item.code == "mask.empty" else item for item in found]
        problems += [_with_role(item, subject, name) for item in found]
        if volume is not None:
            volumes[name] = volume
    brain = volumes.get(BRAIN)
    for name, path in subject.images.items():
        volume, found = inspect_volume(
            path, "image", options, subject.root, None if brain is None else brain.data, facts
        )
        problems += [_with_role(item, subject, name) for item in found]
        if volume is not None:
            volumes[name] = volume
    complete = {*subject.images, *subject.masks} == set(volumes)
    problems += _check_same_image(subject, volumes)
    if complete:
        volumes, found = _check_geometry(subject, volumes, order)
        problems += found
        if not any(problem.severity == "error" for problem in problems):
            problems += _check_content(subject, volumes, options)
    return volumes, problems


def is_reference(mask: str) -> bool:
    """Whether a mask is a reference, to which ``label_values`` applies."""
    return mask in (TARGET, CHANGE) or mask.startswith((RATER, ADJUDICATED))


def _plain_values(problem: Problem, name: str) -> Problem:
    """Problem of label values in a mask that is no reference."""
    if problem.code != "mask.values" or not problem.remedy.startswith("say "):
        return problem
    remedy = f"write the mask again with 1 inside and 0 elsewhere, or leave {name} out"
    return dataclasses.replace(problem, remedy=remedy)


def _name(subject: LongitudinalSubject, volume: str) -> str:
    return shown(subject.files()[volume], subject.root)


def _with_role(problem: Problem, subject: LongitudinalSubject, name: str) -> Problem:
    """Add subject, role and necessity of the file to a problem with a path."""
    if problem.field != "path":
        return problem
    remedy = problem.remedy
    if problem.code == "path.missing":
        remedy = "check the path, or leave " + (
            f"{name} out (in a table: empty its cell)" if name in subject.masks else "this pair out"
        )
    return dataclasses.replace(problem, field=f"{name} of {subject.id}", remedy=remedy)


def _no_brain(empty: Problem) -> Problem:
    """Problem of an empty brain mask."""
    return dataclasses.replace(
        empty,
        code="mask.no_brain",
        message="the brain mask is empty",
        expected="1 in the brain",
        remedy="make the mask again, or leave it out: systems find the brain themselves",
        severity="error",
    )


def _check_facts(subject: LongitudinalSubject) -> Iterator[Problem]:
    interval = subject.facts.interval_days
    if interval is not None and interval <= 0:
        yield Problem(
            "pair.interval",
            "the follow-up is dated before the baseline"
            if interval < 0
            else "both visits have the same date",
            file=subject.id,
            field="interval_days",
            found=f"{interval:g}",
            expected="more than 0",
            remedy="exchange the two visits, or correct the interval",
            severity="error" if interval < 0 else "warning",
        )


def _check_same_image(
    subject: LongitudinalSubject, volumes: Mapping[str, Volume]
) -> Iterator[Problem]:
    if BASELINE not in volumes or FOLLOWUP not in volumes:
        return
    baseline, followup = volumes[BASELINE], volumes[FOLLOWUP]
    if np.array_equal(baseline.data, followup.data):
        yield Problem(
            "pair.same_image",
            "both visits are the same image",
            file=_name(subject, FOLLOWUP),
            field="voxel values",
            found=f"identical to {_name(subject, BASELINE)}",
            expected="two scans",
            remedy="put the second scan in its place",
        )


def _check_geometry(
    subject: LongitudinalSubject, volumes: dict[str, Volume], order: int
) -> tuple[dict[str, Volume], list[Problem]]:
    """Bring all volumes to one axis order and compare their grids."""
    problems: list[Problem] = []
    moved = bool(subject.to_native)
    anchor = _anchor(subject)
    reference = volumes[anchor]
    ordered: dict[str, Volume] = {}
    for name, volume in volumes.items():
        if moved and name in subject.to_native:
            ordered[name] = resample_through(volume, reference.grid, subject.to_native[name], order)
            continue
        ordered[name] = in_order_of(volume, reference.affine)
        if name in subject.masks:
            partner = _partner(subject, name, anchor)
            problems += _check_mask_side(subject, name, partner, volumes)
        elif ordered[name] is not volume:
            problems.append(_other_order(subject))
    if problems and any(problem.severity == "error" for problem in problems):
        return ordered, problems
    single = BASELINE not in ordered  # one visit alone: nothing to compare it with
    apart = None
    if not (moved or single):
        apart = _difference(ordered[FOLLOWUP].grid, ordered[BASELINE].grid)
    if apart is not None:
        problems.append(_different_grids(subject, apart))
    for name in subject.masks:
        partner = _partner(subject, name, anchor)
        difference = _difference(ordered[name].grid, ordered[partner].grid)
        if difference is None or name == partner:
            continue
        if apart is not None and subject.registered and _on_a_visit(ordered, name):
            continue  # the scans are what is wrong, and that was said
        problems.append(
            Problem(
                "mask.grid",
                "the mask lies on another grid than its scan",
                file=_name(subject, name),
                field=difference[0],
                found=difference[1],
                expected=f"{difference[2]} as in {_name(subject, partner)}",
                remedy="resample the mask onto the scan with nearest neighbours, or draw it on "
                "this scan",
            )
        )
    return ordered, problems


def _different_grids(subject: LongitudinalSubject, difference: tuple[str, str, str]) -> Problem:
    field, found, expected = difference
    return Problem(
        "pair.grid",
        "the visits lie on different grids"
        + ("" if subject.registered else "; they will be registered"),
        file=_name(subject, FOLLOWUP),
        field=field,
        found=found,
        expected=f"{expected} as in {_name(subject, BASELINE)}",
        remedy="register the pair first, or read it as a raw pair: "
        "read=table read.registered=false, read=bids read.registered=false, "
        "read=open_ms read.raw=true"
        if subject.registered
        else "nothing to do",
        severity="error" if subject.registered else "warning",
    )


def _on_a_visit(volumes: Mapping[str, Volume], mask: str) -> bool:
    grid = volumes[mask].grid
    return any(grid.same_as(volumes[name].grid) for name in (BASELINE, FOLLOWUP))


def _anchor(subject: LongitudinalSubject) -> str:
    """Name of the volume whose grid the others are compared with."""
    if subject.to_native:
        for name in (TARGET, CHANGE, BRAIN):
            if name in subject.masks:
                return name
    return FOLLOWUP


def _partner(subject: LongitudinalSubject, mask: str, anchor: str) -> str:
    """Name of the scan that a mask belongs to."""
    if mask == BASELINE_LESIONS and not subject.to_native:
        return BASELINE
    return anchor


def _check_mask_side(
    subject: LongitudinalSubject, mask: str, partner: str, volumes: Mapping[str, Volume]
) -> Iterator[Problem]:
    """Check whether a mask has the same handedness as its scan.

    In a centred grid a mirrored header leaves no other trace, and a mask on the wrong side is the
    worst silent error of all; so it is refused although some such masks may be right.
    """
    if mask == partner:
        return
    # a scan stored in another axis order may differ from the other visit in handedness as well
    partners = {partner} if subject.to_native else {partner, *subject.images}
    side = np.linalg.det(volumes[mask].affine[:3, :3])
    if all(side * np.linalg.det(volumes[name].affine[:3, :3]) < 0 for name in partners):
        yield Problem(
            "mask.mirrored",
            "the mask's header mirrors that of its scan left-right",
            file=_name(subject, mask),
            field="affine",
            found="opposite handedness",
            expected=f"the handedness of {_name(subject, partner)}",
            remedy="save the mask with the header of its scan, then look at both together",
        )


def _other_order(subject: LongitudinalSubject) -> Problem:
    return Problem(
        "pair.axis_order",
        "stored in another axis order; reordered without changing a value",
        file=_name(subject, FOLLOWUP),
        field="affine",
        found="another order or direction of axes",
        expected=f"that of {_name(subject, BASELINE)}",
        remedy="nothing to do",
        severity="warning",
    )


def _difference(one: Grid, other: Grid) -> tuple[str, str, str] | None:
    """Field, found and expected value of the first difference between two grids."""
    if one.shape != other.shape:
        return "dim", " x ".join(map(str, one.shape)), " x ".join(map(str, other.shape))
    if one.same_as(other):
        return None
    sizes = [np.array(grid.spacing_mm) for grid in (one, other)]
    if np.abs(sizes[0] / sizes[1] - 1).max() > 0.01:
        text = [" x ".join(f"{size:.3g}" for size in spacing) for spacing in sizes]
        return "pixdim", f"{text[0]} mm", f"{text[1]} mm"
    gap = one.displacement_mm(other)
    turns = [
        grid.affine[:3, :3] / spacing for grid, spacing in zip((one, other), sizes, strict=True)
    ]
    cosine = (np.trace(turns[0].T @ turns[1]) - 1) / 2
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if angle > 0.1:
        return "orientation", f"turned by {angle:.1f} degrees", "0 degrees"
    return "origin", f"{gap:.1f} mm away", "0 mm"


def _check_content(
    subject: LongitudinalSubject, volumes: Mapping[str, Volume], options: GateOptions
) -> Iterator[Problem]:
    name = functools.partial(_name, subject)
    found = list(check_images(volumes, name))
    yield from found
    if BASELINE not in volumes or found:
        return
    baseline, followup = volumes[BASELINE], volumes[FOLLOWUP]
    if baseline.grid.same_as(followup.grid):
        same, mirrored, fires = looks_mirrored(baseline, followup)
        if fires:
            yield _mirrored(subject, same, mirrored, options)
        elif subject.registered or subject.to_native:
            found = list(check_visits(baseline, followup, same, name))
            yield from found
            if any(problem.severity == "error" for problem in found):
                return
    target = volumes.get(TARGET)
    if target is None or target.grid.shape != followup.grid.shape or not target.data.any():
        return
    inside = np.asarray(target.data) > 0.5
    if not inside.any():
        return
    brain = volumes.get(BRAIN)
    outside = _share_outside(inside, followup.data, None if brain is None else brain.data)
    if outside > 0.5:
        yield Problem(
            "mask.outside_brain",
            "lesions lie outside the brain",
            file=_name(subject, TARGET),
            field="voxel values",
            found=f"{outside:.0%} of the lesion voxels",
            expected="lesions inside the brain",
            remedy="look at mask and scan together",
            severity="warning",
        )
    elif baseline.grid.same_as(followup.grid):
        change = _change(inside, baseline.data, followup.data)
        if change < -DARKER_SD:
            yield Problem(
                "pair.swapped",
                "new lesions are darker at follow-up: the visits may be exchanged",
                file=_name(subject, FOLLOWUP),
                field="visit order",
                found=f"{change:.2f} standard deviations",
                expected="brighter lesions at follow-up",
                remedy="check the dates; exchange the visits if they are wrong",
                severity="warning",
            )


def _mirrored(
    subject: LongitudinalSubject, same: float, mirrored: float, options: GateOptions
) -> Problem:
    return Problem(
        "pair.mirrored",
        "the follow-up looks like the mirror image of the baseline",
        file=_name(subject, FOLLOWUP),
        field="voxel values",
        found=f"correlation {same:.2f} as it is, {mirrored:.2f} mirrored left-right",
        expected="a better match as it is",
        remedy="compare both scans by eye; correct the header or the voxels, or confirm the "
        "pair with data.reading.confirm_mirrored=true",
        severity="warning" if options.confirm_mirrored else "error",
    )


def _share_outside(
    inside: NDArray[np.bool_], image: NDArray[np.generic], brain: NDArray[np.generic] | None
) -> float:
    allowed = brain[inside] != 0 if brain is not None and brain.any() else head_of(image)[inside]
    return 1.0 - float(np.mean(allowed))


def _change(
    inside: NDArray[np.bool_], baseline: NDArray[np.generic], followup: NDArray[np.generic]
) -> float:
    """Mean change of intensity inside a mask, in standard deviations of the head."""
    levels = []
    for image in (baseline, followup):
        values = np.asarray(image, np.float32)
        tissue = values[::2, ::2, ::2]
        tissue = tissue[head_of(tissue)]
        levels.append((float(values[inside].mean()) - float(tissue.mean())) / float(tissue.std()))
    return levels[1] - levels[0]
