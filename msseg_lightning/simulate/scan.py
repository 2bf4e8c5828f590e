"""Rendering of one visit."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Affine, Grid
from msseg_lightning.simulate import acquire, render
from msseg_lightning.simulate.head import load_head
from msseg_lightning.simulate.lesion import Lesion
from msseg_lightning.simulate.physics import tissues
from msseg_lightning.simulate.plan import Plan, scan_spacing
from msseg_lightning.simulate.scanner import SCANNERS, Scanner
from msseg_lightning.simulate.warp import LATTICE_ORIGIN_MM


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
class Box:
    """A box of voxels with the signal of one lesion."""

    where: tuple[slice, slice, slice]
    share: NDArray[np.float32]
    weight: NDArray[np.float32]
    level: NDArray[np.float32]


class Renderer:
    """Renders the signal, brain and lesions of one visit."""

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
        """Signal without lesions; white matter is about 1."""
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

    def lesion(self, lesion: Lesion) -> Box | None:
        """Signal of one lesion at this visit; None if it does not exist then."""
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
        return Box((where[0], where[1], where[2]), share, weight, level)


def scan_visit(plan: Plan, visit: int) -> tuple[Grid, NDArray[np.float32]]:
    """Simulate the stored scan of one visit on its own grid."""
    scanner = plan.visits[visit].scanner
    grid = acquire.centred_grid(
        scan_spacing(plan.recipe, scanner), plan.recipe.field_of_view_mm, plan.recipe.centre_mm
    )
    renderer = Renderer(plan, visit, grid, plan.visits[visit].pose)
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
