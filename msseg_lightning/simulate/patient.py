"""One patient, twice in the scanner: the pure function behind every cohort."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Affine, Grid, Volume
from msseg_lightning.simulate import acquire, render
from msseg_lightning.simulate.head import Head, load_head
from msseg_lightning.simulate.lesion import Lesion, draw_lesions
from msseg_lightning.simulate.library.statistics import shipped_statistics
from msseg_lightning.simulate.physics import tissues
from msseg_lightning.simulate.rater import chance_of_marking, consensus
from msseg_lightning.simulate.recipe import CohortRecipe
from msseg_lightning.simulate.scanner import SCANNERS, Scanner, scanners_named
from msseg_lightning.simulate.warp import (
    LATTICE_MM,
    LATTICE_ORIGIN_MM,
    Field,
    Warp,
    exponential,
    interpolate,
    lattice_points,
    random_velocity,
    rigid,
)


@dataclasses.dataclass(frozen=True)
class Visit:
    """One visit before it is rendered.

    Args:
        scanner: its profile.
        pose: (4, 4) world of the raw scan -> head.
        error: (4, 4) world of the middle space -> where registration believes it to be.
        velocity: of the anatomy at this visit, head -> undeformed head.
        warp: the deformation that follows from it.
        style: numbers for the renderer, ``render.STYLE``.
        flow: leak of each place of inflow.
        ghosting: strength of motion ghosts.
    """

    scanner: Scanner
    pose: Affine
    error: Affine
    velocity: Field
    warp: Warp
    style: NDArray[np.float64]
    flow: NDArray[np.float64]
    ghosting: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about a patient that is drawn, nothing that is rendered.

    Args:
        recipe: with the patient's condition filled in.
        seed: of the cohort.
        index: of the patient.
        participant: row of ``participants.tsv``.
        lesions: every lesion and vessel.
        visits: both of them.
        middle: (4, 4) world of the middle space -> head.
        grid: of the middle space, RAS.
        tile: the patient's noise.
    """

    recipe: CohortRecipe
    seed: int
    index: int
    participant: Mapping[str, Any]
    lesions: tuple[Lesion, ...]
    visits: tuple[Visit, Visit]
    middle: Affine
    grid: Grid
    tile: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class SimulatedPatient:
    """A patient as files will show it.

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
    """Patient ``index`` (0-based) of the cohort (recipe, seed); the same bytes every time."""
    return render_patient(plan_patient(recipe, seed, index))


def draw_participant(recipe: CohortRecipe, seed: int, index: int) -> dict[str, Any]:
    """Who the patient is and which scanners saw them."""
    generator = keyed_generator(seed, "simulate", index, "participant")
    pool = scanners_named(
        *(recipe.train_scanners if recipe.part(index) == "train" else recipe.test_scanners)
    )
    first = pool[int(generator.integers(len(pool)))]
    same = generator.random() < recipe.change.same_scanner
    second = first if same else pool[int(generator.integers(len(pool)))]
    condition = recipe.condition(index)
    return {
        "participant_id": recipe.patient_name(index),
        "part": recipe.part(index),
        "sex": "F" if generator.random() < 0.7 else "M",
        "age": round(float(generator.uniform(*recipe.anatomy.age_years)), 1),
        "site": first.name,
        "vendor": first.vendor,
        "field_strength": first.field_strength_t,
        "followup_site": second.name,
        "followup_vendor": second.vendor,
        "followup_field_strength": second.field_strength_t,
        "interval_days": round(float(generator.uniform(*recipe.change.interval_days))),
        "condition": "n/a" if condition is None else f"{condition[0]}={condition[1]}",
    }


def plan_patient(recipe: CohortRecipe, seed: int, index: int) -> Plan:
    """Draw everything."""
    recipe = recipe.for_patient(index)
    participant = draw_participant(recipe, seed, index)
    head = load_head()
    anatomy, change = recipe.anatomy, recipe.change
    generator = keyed_generator(seed, "simulate", index, "anatomy")
    scale = np.exp(generator.normal(0, anatomy.head_scale, 3).clip(-0.08, 0.08))
    to_template = np.diag([*(1 / scale), 1.0])
    to_template[:3, 3] = generator.normal(0, 1.0, 3)
    velocity = random_velocity(generator, 24.0, anatomy.large_warp_mm)
    velocity += random_velocity(generator, 9.0, anatomy.small_warp_mm)
    young, old = 20.0, 70.0
    age = float(np.clip((participant["age"] - young) / (old - young), 0, 1))
    pull = _ventricle_pull(head, to_template)
    enlarged = anatomy.ventricles_mm * max(age * generator.uniform(0.3, 1.2), 0)
    widening = anatomy.sulci * (age * generator.uniform(0.4, 1.2) - 0.3)
    style = np.array(
        [
            generator.uniform(11.0, 15.0),  # sharpness of the borders between tissues
            generator.uniform(0.28, 0.42),  # folding
            generator.uniform(0.80, 1.05),  # sulci
            widening,
            generator.uniform(0.020, 0.040),  # texture
            generator.uniform(0.05, 0.30),  # bright rim of the ventricles
            generator.uniform(5.0, 8.0),  # skull, mm
            generator.uniform(4.0, 8.0),  # scalp, mm
            0.0,
        ]
    )
    tile = render.noise_tile(keyed_generator(seed, "simulate", index, "noise tile"))

    generator = keyed_generator(seed, "simulate", index, "change")
    years = participant["interval_days"] / 365.25
    atrophy = change.atrophy_mm_per_year * years * generator.uniform(0, 2)
    wander = random_velocity(generator, 20.0, change.warp_mm)
    half = rigid(
        0.5 * generator.normal(0, change.pose_deg, 3), 0.5 * generator.normal(0, change.pose_mm, 3)
    )
    middle = rigid(generator.normal(0, 3.0, 3), generator.normal(0, 2.0, 3))
    visits = []
    for visit, sign in enumerate((-0.5, 0.5)):
        own = keyed_generator(seed, "simulate", index, "visit", visit)
        total = velocity + (enlarged + (visit * atrophy)) * pull + np.float32(sign) * wander
        visit_style = style.copy()
        visit_style[3] += 0.02 * visit * atrophy
        error = rigid(
            own.normal(0, change.misregistration_deg / np.sqrt(2), 3),
            own.normal(0, change.misregistration_mm / np.sqrt(2), 3),
        )
        pose = middle @ (half if visit else np.linalg.inv(half))
        site = participant["followup_site" if visit else "site"]
        visits.append(
            Visit(
                scanner=SCANNERS[site],
                pose=pose,
                error=error,
                velocity=total,
                warp=Warp(exponential(total), to_template),
                style=visit_style,
                flow=own.exponential(change.flow, 10) * (own.random(10) < 0.5),
                ghosting=float(own.uniform(0.01, 0.05)) * (own.random() < change.ghosting),
            )
        )
    grid = acquire.centred_grid(
        _spacing(recipe, visits[0].scanner), recipe.field_of_view_mm, recipe.centre_mm
    )
    return Plan(
        recipe=recipe,
        seed=seed,
        index=index,
        participant=participant,
        lesions=draw_lesions(recipe, shipped_statistics(), head, seed, index),
        visits=(visits[0], visits[1]),
        middle=middle,
        grid=grid,
        tile=tile,
    )


def _spacing(recipe: CohortRecipe, scanner: Scanner) -> tuple[float, float, float]:
    x, y, z = (max(edge, recipe.spacing_floor_mm) for edge in scanner.spacing_mm)
    return x, y, z


def _ventricle_pull(head: Head, to_template: Affine) -> Field:
    """Velocity that moves the ventricles' walls outwards by 1 mm, fading over 15 mm.

    The deformation maps the patient to the template: to widen a ventricle, a point outside it has
    to be sent inwards, against the gradient of the distance.
    """
    from scipy import ndimage

    points = lattice_points().reshape(-1, 3) @ to_template[:3, :3].T + to_template[:3, 3]
    index = ((points - head.origin_mm) / 2).T
    distance = ndimage.map_coordinates(head.distances[..., 1], index, order=1, mode="nearest")
    distance = ndimage.gaussian_filter(distance.reshape(lattice_points().shape[:3]), 0.7)
    gradient = np.stack(np.gradient(distance, LATTICE_MM), axis=-1)
    strength = np.exp(-np.clip(distance - 1, 0, None) / 12) * np.clip((distance + 6) / 6, 0, 1)
    return np.asarray(-gradient * strength[..., None], np.float32)


@functools.cache
def _severities() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contrast on one 3 T protocol for shares of plaque from 0 to the brightest."""
    scanner = SCANNERS["siemens_03"]
    table = tissues(scanner.field_strength_t)
    shares = np.linspace(0, 0.55, 56)
    contrasts = [
        scanner.signal(table["white"].mixed_with(table["plaque"], share)) for share in shares
    ]
    return np.array(contrasts), shares


def lesion_signal(contrast: float, scanner: Scanner) -> float:
    """Signal over white matter's on one scanner of a lesion with a nominal contrast.

    The nominal contrast is what a 3 T reference protocol shows. It fixes how far the tissue is on
    the way from white matter to plaque; each scanner's own signal follows from that.
    """
    contrasts, shares = _severities()
    share = float(np.interp(contrast, contrasts, shares))
    table = tissues(scanner.field_strength_t)
    tissue = table["white"].mixed_with(table["plaque"], share)
    # beyond the brightest plaque of the reference the excess is kept as a factor
    return scanner.signal(tissue) * max(1.0, contrast / float(contrasts[-1]))


@dataclasses.dataclass(frozen=True)
class _Box:
    """Part of a grid with what one lesion does there."""

    where: tuple[slice, slice, slice]
    share: NDArray[np.float32]
    weight: NDArray[np.float32]
    level: NDArray[np.float32]


class _Renderer:
    """The compiled loops with one visit's arguments filled in."""

    def __init__(self, plan: Plan, visit: int, grid: Grid, to_head: Affine) -> None:
        self.plan, self.visit, self.grid = plan, plan.visits[visit], grid
        self.number = visit
        self.head = load_head()
        self.to_head = np.ascontiguousarray(to_head @ grid.affine)
        axis = int(np.argmax(grid.spacing_mm))
        self.points, self.weights = acquire.voxel_points(
            grid.spacing_mm, axis, plan.recipe.sampling_mm
        )
        self.geometry = (
            self.visit.warp.displacement,
            LATTICE_ORIGIN_MM,
            self.visit.warp.to_template,
        )
        centres = np.array([lesion.centre_mm for lesion in plan.lesions]).reshape(-1, 3)
        self.centres = {
            lesion.number: centre
            for lesion, centre in zip(plan.lesions, self.visit.warp.invert(centres), strict=True)
        }
        self.model = (self.head.maps, self.head.distances, self.head.origin_mm)

    def signal(self) -> NDArray[np.float32]:
        """The scan without lesions, white matter about 1."""
        scanner = self.visit.scanner
        table = tissues(scanner.field_strength_t)
        values = [scanner.signal(table[name]) for name in render.SIGNALS[:-1]]
        values[render.SIGNALS.index("fat")] *= scanner.fat
        values[render.SIGNALS.index("marrow")] *= 0.3 + 0.7 * scanner.fat
        # water that was not inverted: fully relaxed, weighted by T2 only
        free = dataclasses.replace(scanner, inversion=-1.0).signal(table["csf"])
        values.append(min(free, 6.0))
        return render.render_signal(
            self.grid.shape,
            self.to_head,
            self.points,
            self.weights,
            *self.geometry,
            *self.model,
            self.plan.tile,
            self.visit.style,
            np.array(values),
            self.visit.flow,
        )

    def brain(self) -> NDArray[np.uint8]:
        """Inside of the brain's hull at voxel centres."""
        return render.render_brain(
            self.grid.shape, self.to_head, *self.geometry, self.head.distances, self.head.origin_mm
        )

    def lesion(self, lesion: Lesion) -> _Box | None:
        """One lesion of the plan as it is at this visit; None where it is not."""
        visit = self.number
        if not lesion.present(visit):
            return None
        centre = self.centres[lesion.number]
        back = np.linalg.inv(self.to_head)
        middle = back[:3, :3] @ centre + back[:3, 3]
        reach = 1.45 * lesion.half_axes_mm[0] * lesion.scales[visit] + 4.0
        reach_voxels = reach / np.array(self.grid.spacing_mm)
        start = np.floor(middle - reach_voxels).astype(np.int64).clip(0, self.grid.shape)
        stop = (np.ceil(middle + reach_voxels).astype(np.int64) + 1).clip(0, self.grid.shape)
        if (stop <= start).any():
            return None
        share, weight, level = render.render_lesion(
            start,
            stop,
            self.to_head,
            self.points,
            self.weights,
            *self.geometry,
            *self.model,
            self.plan.tile,
            self.visit.style,
            lesion.centre_mm,
            lesion.shape_matrix(visit),
            lesion.radius_mm * lesion.scales[visit],
            lesion.irregular,
            float(lesion.number % 61) + 0.37,
            lesion.core,
            lesion.halo,
            lesion.fate == "vessel",
            6.0 + max(self.grid.spacing_mm),
        )
        where = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        return _Box((where[0], where[1], where[2]), share, weight, level)


def scan_visit(plan: Plan, visit: int) -> tuple[Grid, NDArray[np.float32]]:
    """The raw scan of one visit on its own grid, as values the scanner stores."""
    scanner = plan.visits[visit].scanner
    grid = acquire.centred_grid(
        _spacing(plan.recipe, scanner), plan.recipe.field_of_view_mm, plan.recipe.centre_mm
    )
    renderer = _Renderer(plan, visit, grid, plan.visits[visit].pose)
    signal = renderer.signal()
    extra = np.zeros(grid.shape, np.float32)
    for lesion in plan.lesions:
        box = renderer.lesion(lesion)
        if box is not None:
            bright = (lesion_signal(lesion.contrast, scanner) - 1) * box.weight
            np.maximum(extra[box.where], bright, out=extra[box.where])
    # grey matter is brighter than white: a lesion in it adds less than it adds to white matter
    signal += extra * np.clip(1.6 - 0.6 * signal, 0.4, 1)
    generator = keyed_generator(plan.seed, "simulate", plan.index, "acquisition", visit)
    return grid, acquire.acquire(
        signal, scanner, generator, plan.recipe.noise, plan.visits[visit].ghosting
    )


def _smallest(grid: Grid) -> int:
    """Voxels of the smallest lesion that the official scorer counts (more than 3 mm3)."""
    return int(np.floor(3.0 / grid.voxel_volume_mm3)) + 1


def _voxels(box: _Box, smallest: int) -> NDArray[np.bool_]:
    """Voxels at least half lesion; if that leaves too few, the voxels with the largest share."""
    mask = box.share >= 0.5
    if mask.sum() < smallest:
        order = np.argsort(-box.share, axis=None, kind="stable")[:smallest]
        mask = np.zeros(box.share.shape, bool)
        mask.ravel()[order] = True
        mask &= box.share > 0.02
    return mask


def render_patient(plan: Plan) -> SimulatedPatient:
    """Render, register, mark and tabulate."""
    recipe, grid = plan.recipe, plan.grid
    volumes: dict[str, Volume] = {}
    labels: list[NDArray[np.uint16]] = []
    brain = np.zeros(grid.shape, np.uint8)
    boxes: dict[int, _Box] = {}
    renderers: list[_Renderer] = []
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
        renderer = _Renderer(plan, visit, grid, to_head)
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
    renderer: _Renderer,
    labels: Sequence[NDArray[np.uint16]],
    boxes: Mapping[int, _Box],
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
            drawn |= _voxels(_Box(box.where, box.share, box.weight, box.level), 1) & (
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
    """Where each point of the middle space that is seen at baseline lies at follow-up.

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
    renderer: _Renderer,
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
