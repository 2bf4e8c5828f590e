"""Random draws of a patient, before rendering."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Affine, Grid
from msseg_lightning.simulate import acquire, render
from msseg_lightning.simulate.head import Head, load_head
from msseg_lightning.simulate.lesion import Lesion, draw_lesions
from msseg_lightning.simulate.lesion_prior.statistics import shipped_statistics
from msseg_lightning.simulate.recipe import CohortRecipe
from msseg_lightning.simulate.scanner import SCANNERS, Scanner, scanners_named
from msseg_lightning.simulate.warp import (
    LATTICE_MM,
    Field,
    Warp,
    exponential,
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
    """All random draws of a patient.

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


def draw_participant(recipe: CohortRecipe, seed: int, index: int) -> dict[str, Any]:
    """Draw sex, age, scanners and interval of a patient."""
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
    """Draw all random values of a patient."""
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
        scan_spacing(recipe, visits[0].scanner), recipe.field_of_view_mm, recipe.centre_mm
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


def scan_spacing(recipe: CohortRecipe, scanner: Scanner) -> tuple[float, float, float]:
    """Voxel size of the scanner, but no finer than the recipe allows."""
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
