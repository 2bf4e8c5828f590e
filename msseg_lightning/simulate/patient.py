"""Simulation of one patient with two visits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.simulate import acquire
from msseg_lightning.simulate.plan import Plan, plan_patient
from msseg_lightning.simulate.rater import chance_of_marking, consensus
from msseg_lightning.simulate.recipe import CohortRecipe
from msseg_lightning.simulate.scan import Box, Renderer, lesion_signal, scan_visit
from msseg_lightning.simulate.warp import (
    LATTICE_MM,
    LATTICE_ORIGIN_MM,
    exponential,
    interpolate,
    lattice_points,
)

RENDERER_VERSION = 1
"""Of the code that turns a recipe and a seed into voxels: this file and all it draws with.

Raise it by hand whenever a patient of an unchanged recipe comes out with other voxels. A cohort
records it and is continued by the same version only: half its patients from one simulator and half
from another would differ by more than their seed. ``tests/simulate/test_patient.py`` pins voxels to
the version, so a change without a new version fails there.
"""


@dataclasses.dataclass(frozen=True)
class SimulatedPatient:
    """The volumes and tables of one simulated patient.

    Args:
        name: folder, e.g. ``013``.
        volumes: file stem -> volume, such as ``flair_time01_on_middle_space``.
        participant: row of ``participants.tsv``.
        lesions: rows of ``lesions.tsv``.
    """

    name: str
    volumes: Mapping[str, Volume]
    participant: Mapping[str, Any]
    lesions: tuple[Mapping[str, Any], ...]


def simulate_patient(recipe: CohortRecipe, seed: int, index: int) -> SimulatedPatient:
    """Simulate patient ``index`` (0-based) of a cohort; a pure function of its arguments."""
    return render_patient(plan_patient(recipe, seed, index))


def _smallest(grid: Grid) -> int:
    """Voxels of the smallest lesion that the official scorer counts (more than 3 mm3)."""
    return int(np.floor(3.0 / grid.voxel_volume_mm3)) + 1


def _voxels(box: Box, smallest: int) -> NDArray[np.bool_]:
    """Voxels that are at least half lesion; if too few, those with the largest share."""
    mask = box.share >= 0.5
    if mask.sum() < smallest:
        order = np.argsort(-box.share, axis=None, kind="stable")[:smallest]
        mask = np.zeros(box.share.shape, bool)
        mask.ravel()[order] = True
        mask &= box.share > 0.02
    return mask


def render_patient(plan: Plan) -> SimulatedPatient:
    """Render both visits, register them and make masks and tables."""
    recipe, grid = plan.recipe, plan.grid
    volumes: dict[str, Volume] = {}
    labels: list[NDArray[np.uint16]] = []
    brain = np.zeros(grid.shape, np.uint8)
    boxes: dict[int, Box] = {}
    renderers: list[Renderer] = []
    for visit in (0, 1):
        raw_grid, raw = scan_visit(plan, visit)
        to_head = plan.middle @ plan.visits[visit].error
        to_raw = np.linalg.inv(plan.visits[visit].pose @ raw_grid.affine) @ to_head @ grid.affine
        moved = acquire.resample(raw, to_raw, grid.shape)
        stem = f"flair_time0{visit + 1}"
        volumes[f"{stem}_on_middle_space"] = Volume(_stored(moved), grid.affine)
        if recipe.raw:
            volumes[stem] = Volume(_stored(raw), raw_grid.affine)
        del raw, moved
        renderer = Renderer(plan, visit, grid, to_head)
        renderers.append(renderer)
        brain |= renderer.brain()
        found = np.zeros(grid.shape, np.uint16)
        for lesion in plan.lesions:
            box = None if lesion.fate == "vessel" else renderer.lesion(lesion)
            if box is None:
                continue
            part = found[box.where]
            part[_voxels(box, _smallest(grid)) & (part == 0)] = lesion.number
            if visit == 1 and lesion.fate == "new":
                boxes[lesion.number] = box
        labels.append(found)
    new = np.array([lesion.number for lesion in plan.lesions if lesion.fate == "new"], np.uint16)
    truth = np.isin(labels[1], new).astype(np.uint8)
    if recipe.single_timepoint:
        del volumes["flair_time01_on_middle_space"]
        volumes["flair"] = volumes.pop("flair_time02_on_middle_space")
        volumes["lesions"] = Volume((labels[1] > 0).astype(np.uint8), grid.affine, "mask")
        volumes["brain_mask"] = Volume(brain, grid.affine, "mask")
        agreed, marks = truth, []
    else:
        marks = _marks(plan, renderers[1], labels, boxes)
        reviewer = keyed_generator(plan.seed, "simulate", plan.index, "reviewer")

        def accept(region: NDArray[np.bool_]) -> bool:
            return bool(truth[region].any()) == bool(reviewer.random() < recipe.raters.reviewer)

        agreed = consensus(marks, accept)
        masks = {"brain_mask": brain}
        if recipe.labels:
            masks |= {"ground_truth": agreed, "true_new_lesions": truth}
            masks |= {f"ground_truth_expert{n + 1}": mark for n, mark in enumerate(marks)}
            masks |= {
                f"lesions_time0{visit + 1}": (labels[visit] > 0).astype(np.uint8)
                for visit in (0, 1)
            }
        for name, mask in masks.items():
            volumes[name] = Volume(mask, grid.affine, "mask")
        if recipe.deformation:
            volumes["deformation"] = _true_deformation(plan)
    if recipe.orientations:
        axes = plan.visits[0].scanner.orientation
        volumes = {
            name: volume if name == "deformation" else reorient(volume, axes)
            for name, volume in volumes.items()
        }
    return SimulatedPatient(
        name=recipe.patient_name(plan.index),
        volumes=volumes,
        participant=plan.participant,
        lesions=_rows(plan, renderers[1], labels, marks, agreed),
    )


def _stored(image: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(image), 0, 32767).astype(np.int16)


def reorient(volume: Volume, axes: str) -> Volume:
    """The same volume stored in another axis order such as ``PSR``."""
    import nibabel

    wanted = nibabel.orientations.axcodes2ornt(axes)
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(volume.affine), wanted
    )
    data = nibabel.orientations.apply_orientation(volume.data, change)
    affine = volume.affine @ nibabel.orientations.inv_ornt_aff(change, volume.data.shape)
    return Volume(np.ascontiguousarray(data), affine, volume.kind)


def _marks(
    plan: Plan,
    renderer: Renderer,
    labels: Sequence[NDArray[np.uint16]],
    boxes: Mapping[int, Box],
) -> list[NDArray[np.uint8]]:
    raters, grid = plan.recipe.raters, plan.grid
    new = {lesion.number: lesion for lesion in plan.lesions if lesion.fate == "new"}
    old = (labels[1] > 0) & ~np.isin(labels[1], list(new))
    candidates = [
        lesion for lesion in plan.lesions if lesion.fate in ("growing", "vessel", "stable")
    ]
    marks = []
    for rater in range(4):
        generator = keyed_generator(plan.seed, "simulate", plan.index, "rater", rater)
        mark = np.zeros(grid.shape, np.uint8)
        for number, box in boxes.items():
            volume = float((labels[1] == number).sum()) * grid.voxel_volume_mm3
            chance = chance_of_marking(
                raters.sensitivity[rater],
                max(volume, 1.0),
                lesion_signal(new[number].contrast, plan.visits[1].scanner),
            )
            shift = raters.boundary_mm[rater] + raters.boundary_noise_mm * float(
                generator.standard_normal()
            )
            if generator.random() > chance:
                continue
            drawn = box.level > -np.clip(shift, -1.0, 1.0)
            drawn &= box.share > 0.02
            drawn |= _voxels(Box(box.where, box.share, box.weight, box.level), 1) & (
                box.level >= box.level.max()
            )
            mark[box.where] |= drawn.astype(np.uint8)
        for _ in range(int(generator.poisson(raters.false_marks[rater]))):
            if not candidates:
                break
            # a mistaken mark lies on something bright: an old lesion's rim or a vessel
            chosen = candidates[int(generator.integers(len(candidates)))]
            mistaken = renderer.lesion(
                dataclasses.replace(
                    chosen,
                    centre_mm=chosen.centre_mm + chosen.axes[0] * chosen.half_axes_mm[0],
                    half_axes_mm=np.full(3, generator.uniform(1.2, 2.4)),
                    scales=(1.0, 1.0),
                )
            )
            if mistaken is not None:
                mark[mistaken.where] |= _voxels(mistaken, _smallest(grid)).astype(np.uint8)
        mark[old] = 0
        marks.append(mark)
    return marks


def _true_deformation(plan: Plan) -> Volume:
    """Displacement from baseline to follow-up at each point of the halfway space.

    (X, Y, Z, 1, 3) float32 mm (RAS) on the 4 mm lattice of the middle space: a point ``x`` of the
    baseline is found at ``x + d(x)`` in the follow-up, residual misregistration included.
    """
    first, second = plan.visits
    points = lattice_points().reshape(-1, 3)

    def move(matrix: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(places @ matrix[:3, :3].T + matrix[:3, 3])

    places: NDArray[np.float64] = move(plan.middle @ first.error, points)
    places = places + interpolate(first.warp.displacement, places)
    places = places + interpolate(exponential(-second.velocity), places)
    places = move(np.linalg.inv(plan.middle @ second.error), places)
    shape = lattice_points().shape[:3]
    affine = np.diag([LATTICE_MM] * 3 + [1.0])
    affine[:3, 3] = LATTICE_ORIGIN_MM
    field = (places - points).reshape(*shape, 1, 3).astype(np.float32)
    return Volume(field, affine)


def _rows(
    plan: Plan,
    renderer: Renderer,
    labels: Sequence[NDArray[np.uint16]],
    marks: Sequence[NDArray[np.uint8]],
    agreed: NDArray[np.uint8],
) -> tuple[Mapping[str, Any], ...]:
    voxel = plan.grid.voxel_volume_mm3
    most = max((lesion.number for lesion in plan.lesions), default=0) + 1
    sizes = [np.bincount(found.ravel(), minlength=most) for found in labels]
    middle = np.linalg.inv(plan.middle @ plan.visits[1].error)
    rows = []
    for lesion in plan.lesions:
        x, y, z = middle[:3, :3] @ renderer.centres[lesion.number] + middle[:3, 3]
        own = None
        if lesion.fate == "new":
            own = labels[1] == lesion.number
        rows.append(
            {
                "participant_id": plan.participant["participant_id"],
                "lesion": lesion.number,
                "fate": lesion.fate,
                "class": lesion.place,
                "x_mm": round(float(x), 2),
                "y_mm": round(float(y), 2),
                "z_mm": round(float(z), 2),
                "drawn_volume_mm3": round(lesion.volume_mm3, 2),
                "volume_time01_mm3": round(float(sizes[0][lesion.number]) * voxel, 2),
                "volume_time02_mm3": round(float(sizes[1][lesion.number]) * voxel, 2),
                "contrast_time01": round(lesion_signal(lesion.contrast, plan.visits[0].scanner), 3)
                if lesion.present(0)
                else "n/a",
                "contrast_time02": round(lesion_signal(lesion.contrast, plan.visits[1].scanner), 3)
                if lesion.present(1)
                else "n/a",
                "raters": "n/a" if own is None else int(sum(bool(m[own].any()) for m in marks)),
                "in_consensus": "n/a" if own is None else int(bool(agreed[own].any())),
            }
        )
    return tuple(rows)
