"""Drawing of the lesions of one patient."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.simulate.head import Head
from msseg_lightning.simulate.lesion_prior.statistics import (
    PRIOR_ORIGIN_MM,
    PRIOR_SHAPE,
    PRIOR_SPACING_MM,
    QUANTILES,
    LesionStatistics,
)
from msseg_lightning.simulate.recipe import CohortRecipe, LesionRecipe

Fate = Literal["new", "stable", "growing", "shrinking", "vanishing", "vessel"]
LesionClass = Literal["periventricular", "juxtacortical", "infratentorial", "deep", "vessel"]

PLACES_PER_DRAW = 24
"""Number of places drawn at once."""
CONFLUENT_MM3 = 700.0
CONFLUENT_REACH_MM = 5.5
"""Old lesions above this volume are confluent: they lie on the ventricles' wall and follow it. In
open_ms 60 % of the lesion volume but 18 % of the lesions are periventricular."""

OLD_FATES: tuple[Fate, ...] = ("stable", "growing", "shrinking", "vanishing")


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One lesion of any kind, in MNI space before the patient's deformation.

    Args:
        number: 1-based, unique in the patient; old lesions first.
        fate: what happens to it between the visits; a vessel is no lesion.
        place: class by its place.
        centre_mm: (3,) MNI.
        half_axes_mm: (3,), longest first.
        axes: (3, 3) rows are the directions of the half axes.
        contrast: signal over white matter's in its body, before partial volume.
        irregular: relative depth of the border's bays.
        core: how much darker the middle is.
        halo: strength of the halo.
        scales: size at both visits relative to the half axes; 0 is absent.
    """

    number: int
    fate: Fate
    place: LesionClass
    centre_mm: NDArray[np.float64]
    half_axes_mm: NDArray[np.float64]
    axes: NDArray[np.float64]
    contrast: float
    irregular: float
    core: float
    halo: float
    scales: tuple[float, float]

    @property
    def radius_mm(self) -> float:
        """Geometric mean of the half axes."""
        return float(np.prod(self.half_axes_mm) ** (1 / 3))

    @property
    def volume_mm3(self) -> float:
        """Volume of the ellipsoid at scale 1."""
        return float(4 / 3 * math.pi * np.prod(self.half_axes_mm))

    def present(self, visit: int) -> bool:
        """Whether the lesion exists at visit 0 or 1."""
        return self.scales[visit] > 0

    def shape_matrix(self, visit: int) -> NDArray[np.float64]:
        """(3, 3) map of the visit's ellipsoid onto the unit sphere."""
        return np.asarray(self.axes / (self.half_axes_mm * self.scales[visit])[:, None])


def stratified_quantile(seed: int, index: int, stratum: int, purpose: str) -> float:
    """A number in (0, 1) for one patient such that every stratum is spread evenly.

    Patients ``k * stratum .. (k + 1) * stratum - 1`` get one number in each of ``stratum`` equal
    cells, in an order that depends on the seed: any patient alone can compute its own.
    """
    block, place = divmod(index, stratum)
    cells = keyed_generator(seed, "simulate", "strata", purpose, block).permutation(stratum)
    jitter = keyed_generator(seed, "simulate", index, purpose).uniform(0.02, 0.98)
    return float((cells[place] + jitter) / stratum)


def new_lesion_count(recipe: LesionRecipe, seed: int, index: int) -> int:
    """How many new lesions a patient has.

    A share without, a share with one, and above that ``2 + (most - 2) q^tail`` for a uniform
    ``q``, which has the challenge's long tail.
    """
    quantile = stratified_quantile(seed, index, recipe.stratum, "new lesion count")
    some = recipe.without_new + recipe.with_one
    if quantile < recipe.without_new:
        return 0
    if quantile < some:
        return 1
    q = (quantile - some) / (1 - some)
    return round(2 + (recipe.most_new - 2) * q**recipe.tail)


def draw_lesions(
    recipe: CohortRecipe, statistics: LesionStatistics, head: Head, seed: int, index: int
) -> tuple[Lesion, ...]:
    """All lesions of a patient: old ones of every fate, then new ones, then bright vessels."""
    lesions = recipe.lesions
    generator = keyed_generator(seed, "simulate", index, "old lesions")
    quantile = stratified_quantile(seed, index, lesions.stratum, "old lesion count")
    old = float(np.interp(quantile, QUANTILES, statistics.counts)) * lesions.old_scale
    drawn: list[Lesion] = []
    change = recipe.change
    shares = np.cumsum([change.grow, change.shrink, change.vanish])
    for _ in range(min(round(old), lesions.old_most)):
        volume = max(_quantile(generator, statistics.volumes_mm3[:100]), lesions.smallest_mm3)
        # three shares in a row, what is left over is stable
        fate = (*OLD_FATES[1:], OLD_FATES[0])[int(np.searchsorted(shares, generator.random()))]
        dark = generator.random() < lesions.core and volume > 60
        drawn.append(
            _draw_one(
                len(drawn) + 1,
                fate,
                min(volume, 12000.0),
                float(generator.uniform(*lesions.old_contrast)),
                generator.uniform(0.4, 0.9) if dark else 0.0,
                drawn,
                recipe,
                statistics,
                head,
                generator,
            )
        )
    generator = keyed_generator(seed, "simulate", index, "new lesions")
    for _ in range(new_lesion_count(lesions, seed, index)):
        volume = 0.0
        while not lesions.smallest_mm3 <= volume <= lesions.largest_new_mm3:
            volume = lesions.new_median_mm3 * math.exp(
                lesions.new_log_sd * generator.standard_normal()
            )
        # contrast is skewed to the faint side: sqrt of a uniform number, turned round
        share = 1 - math.sqrt(1 - 0.95 * generator.random())
        contrast = lesions.contrast[0] + share * (lesions.contrast[1] - lesions.contrast[0])
        drawn.append(
            _draw_one(
                len(drawn) + 1,
                "new",
                volume,
                contrast,
                0.0,
                drawn,
                recipe,
                statistics,
                head,
                generator,
            )
        )
    drawn += _draw_vessels(recipe, head, seed, index, len(drawn) + 1)
    return tuple(drawn)


def _quantile(generator: np.random.Generator, values: NDArray[np.float32]) -> float:
    """Draw from a distribution given by evenly spaced quantiles, interpolated in logarithms."""
    place = generator.random() * (len(values) - 1)
    return float(np.exp(np.interp(place, np.arange(len(values)), np.log(values))))


def _draw_one(
    number: int,
    fate: Fate,
    volume: float,
    contrast: float,
    core: float,
    others: list[Lesion],
    recipe: CohortRecipe,
    statistics: LesionStatistics,
    head: Head,
    generator: np.random.Generator,
) -> Lesion:
    elongation = min(_quantile(generator, statistics.elongations[:99]), 3.0)
    flatness = min(_quantile(generator, statistics.flatnesses[:99]), 2.0)
    radius = (3 * volume / (4 * math.pi)) ** (1 / 3)
    # a : b : c with a / b and b / c given and abc = radius^3
    middle = radius * (flatness / elongation) ** (1 / 3)
    half_axes = np.array([middle * elongation, middle, middle / flatness])
    prior = statistics.small_cumulative if volume < 100 else statistics.cumulative
    touching = fate == "new" and len(others) > 0 and generator.random() < recipe.lesions.touching
    nearest = CONFLUENT_REACH_MM if volume > CONFLUENT_MM3 else np.inf
    centre = _place(prior, radius, nearest, touching, fate == "new", others, head, generator)
    levels = head.at(centre[None])[0]
    place = classify(centre, levels)
    axes = _orientation(centre, place, volume, head, generator)
    scales = {
        "new": (0.0, 1.0),
        "stable": (1.0, 1.0),
        "growing": (1.0, float(generator.uniform(1.15, 1.45))),
        "shrinking": (float(generator.uniform(1.15, 1.45)), 1.0),
        "vanishing": (1.0, 0.0),
    }[fate]
    return Lesion(
        number=number,
        fate=fate,
        place=place,
        centre_mm=centre,
        half_axes_mm=half_axes,
        axes=axes,
        contrast=contrast,
        irregular=float(generator.uniform(0.10, 0.32)),
        core=core,
        halo=float(generator.uniform(0, recipe.lesions.halo)),
        scales=scales,
    )


def _place(
    cumulative: NDArray[np.float64],
    radius: float,
    nearest: float,
    touching: bool,
    new: bool,
    others: list[Lesion],
    head: Head,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw a centre from the prior; new lesions keep 3 mm from all others or touch an old one.

    ``nearest`` limits the distance to the ventricles. Candidates are tried in lots; if none of them
    has room enough, the one with most room is taken: a brain may be full.
    """
    best, widest = np.array([26.0, -20.0, 30.0]), -np.inf
    old = [other for other in others if other.fate == "stable"]
    rivals = [other for other in others if not (touching and other.fate == "stable")]
    rival_centres = np.array([other.centre_mm for other in rivals]).reshape(-1, 3)
    rival_reach = np.array([1.3 * other.half_axes_mm[0] * max(other.scales) for other in rivals])
    for _ in range(12):
        if touching and old:
            host = old[int(generator.integers(len(old)))]
            directions = generator.standard_normal((PLACES_PER_DRAW, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            reach = 1 / np.linalg.norm(directions @ host.shape_matrix(0).T, axis=1)
            points = host.centre_mm + directions * (reach + 0.8 * radius)[:, None]
        else:
            cells = np.searchsorted(cumulative, generator.random(PLACES_PER_DRAW) * cumulative[-1])
            cells = np.minimum(cells, cumulative.size - 1)
            index = np.stack(np.unravel_index(cells, PRIOR_SHAPE), axis=1)
            jitter = generator.random((PLACES_PER_DRAW, 3))
            points = np.array(PRIOR_ORIGIN_MM) + PRIOR_SPACING_MM * (index + jitter)
        white, grey, csf, depth, wall = head.at(points).T
        fits = (csf <= 0.35) & (white + grey >= 0.6) & (white >= 0.35) & (depth <= -3)
        fits &= wall <= nearest
        if not fits.any():
            continue
        points = points[fits]
        if not new or not rivals:
            return np.asarray(points[0])
        gaps = np.linalg.norm(points[:, None] - rival_centres, axis=2) - rival_reach - 1.5 * radius
        room = gaps.min(1)
        if (room > 3.0).any():
            return np.asarray(points[np.argmax(room > 3.0)])
        if room.max() > widest:
            widest, best = float(room.max()), points[int(np.argmax(room))]
    return best


def classify(centre_mm: NDArray[np.float64], levels: NDArray[np.float32]) -> LesionClass:
    """Class of a lesion by its place; periventricular is within 6 mm of a ventricle."""
    _, y, z = centre_mm
    if z < -18 and (y < -34 or abs(centre_mm[0]) < 18):
        return "infratentorial"
    if levels[4] < 6:
        return "periventricular"
    return "juxtacortical" if levels[3] > -14 or levels[1] > 0.25 else "deep"


def _orientation(
    centre: NDArray[np.float64],
    place: LesionClass,
    volume: float,
    head: Head,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw the orientation; lesions beside the ventricles follow their wall.

    There the longest axis of a small lesion stands on the wall (Dawson's fingers), and the shortest
    axis of a confluent one does, so that it lies along the wall.
    """
    basis = generator.standard_normal((3, 3))
    if place == "periventricular":
        steps = np.concatenate([2.0 * np.eye(3), -2.0 * np.eye(3)])
        wall = head.at(centre + steps)[:, 4]
        outwards = wall[:3] - wall[3:]
        basis[0] = outwards / (np.linalg.norm(outwards) + 1e-6) + 0.35 * basis[0]
    q, _ = np.linalg.qr(basis.T)
    order = [1, 2, 0] if place == "periventricular" and volume > CONFLUENT_MM3 else [0, 1, 2]
    return np.asarray(q.T[order])


def _draw_vessels(
    recipe: CohortRecipe, head: Head, seed: int, index: int, first: int
) -> list[Lesion]:
    """Draw bright vessels in sulci; half of them exist at one visit only."""
    generator = keyed_generator(seed, "simulate", index, "vessels")
    vessels: list[Lesion] = []
    wanted = int(generator.poisson(recipe.change.vessels))
    for _ in range(50 * wanted):
        if len(vessels) == wanted:
            break
        point = np.array(
            [generator.uniform(-65, 65), generator.uniform(-100, 65), generator.uniform(-50, 75)]
        )
        _, _, csf, depth, _ = head.at(point[None])[0]
        if csf < 0.3 or not -22 < depth < -1:
            continue
        q, _ = np.linalg.qr(generator.standard_normal((3, 3)))
        width = generator.uniform(0.5, 0.9)
        visits = [(1.0, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)]
        vessels.append(
            Lesion(
                number=first + len(vessels),
                fate="vessel",
                place="vessel",
                centre_mm=point,
                half_axes_mm=np.array([generator.uniform(4, 10), width, width]),
                axes=q.T,
                contrast=float(generator.uniform(1.2, 1.9)),
                irregular=0.1,
                core=0.0,
                halo=0.0,
                scales=visits[int(generator.integers(4))],
            )
        )
    return vessels
