"""Synthetic pairs from single scans, by inpainting and inserting lesions.

A scan and the mask of all its lesions are cut and turned once and copied. Each lesion then meets
one of four fates: erased from the first copy (it is new), from the second (it has vanished), from
both (it never was) or from neither (it is old). Lesions of other patients are painted into the
first copy, the second or both. New lesions are, by construction and to the voxel, those that the
second copy has and the first has not.

Erasing is done by a network that fills noise with healthy tissue, painting by one that fills noise
with lesion; both were trained by ``sample.corrupted`` and are frozen. They run here, where batches
are made, without gradients; nothing is written to disk.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.lesion import Connectivity, label_lesions
from msseg_lightning.core.subject import BRAIN
from msseg_lightning.sample.corrupted import (
    Alteration,
    Mask,
    Patch,
    fill_with_noise,
    scale_of,
    widened,
)
from msseg_lightning.sample.patch import PatchSampler
from msseg_lightning.sample.visit import FLAIR, LESIONS, Visit

COPIES = ("first_flair", "second_flair")
TRIES = 20
"""Number of donors that are tried for a painted lesion."""


class Fate(enum.IntEnum):
    """What happens to a lesion of the scan."""

    ERASED_FIRST = 0  # new
    ERASED_SECOND = 1  # vanished
    ERASED_BOTH = 2
    KEPT = 3  # old


ERASED = {  # copies of which a fate erases
    Fate.ERASED_FIRST: (True, False),
    Fate.ERASED_SECOND: (False, True),
    Fate.ERASED_BOTH: (True, True),
    Fate.KEPT: (False, False),
}
PAINTED = ((True, False), (False, True), (True, True))
"""Time points into which a lesion may be painted."""


class Placement(Protocol):
    """Protocol of the position of a patch, as ``augment.parameters.Parameters``."""

    matrix: NDArray[np.float64]

    def origin(self, centre: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float64]:
        """(3,) position in the volume of the patch's first voxel."""


class PatchTransform(Protocol):
    """Protocol of patch makers that return their parameters, as ``augment.fused.FusedAugment``."""

    def fill(
        self,
        subject: Any,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: Patch,
        labels: Patch,
    ) -> Placement:
        """Write the patch; see ``sample.loader.PatchMaker``."""


@dataclasses.dataclass
class Plan:
    """One synthetic pair before the networks.

    Args:
        copies: (2, X, Y, Z) the two altered copies of the patch.
        lesions: (X, Y, Z) numbers of the scan's own lesions, 0 elsewhere.
        fates: of lesion 1, 2, ...
        erase: (2, X, Y, Z) voxels of each copy that become healthy, lesions with their margin.
        paint: (2, X, Y, Z) lesions painted into each copy.
        new: (X, Y, Z) the mask of new lesions.
        subject: id of the scan's subject.
        generator: of the noise to come.
    """

    copies: Patch
    lesions: NDArray[np.uint32]
    fates: tuple[Fate, ...]
    erase: Mask
    paint: Mask
    new: Mask
    subject: str
    generator: np.random.Generator


class PairSynthesis:
    """Settings and functions that make a pair from one scan.

    Args:
        sampler: where patches lie; each visit's mask has the name ``lesions``.
        turn: flips and rotations of the scan's patch.
        alter: changes each copy on its own (noise, blur, sharpening, thick slices); None for none.
        fates: probabilities of ``Fate``, in its order.
        painted: fewest and most lesions that are painted in; none without a generator.
        places: a mask of white matter in which half of a painted lesion must lie; None for
            anywhere.
        tissue: lowest and highest prepared intensity of the tissue that a painted lesion may
            replace, taken over three quarters of its voxels: neither fluid nor lesion.
        margin_voxels: as in ``sample.corrupted``.
        connectivity: of the voxels of one lesion.
    """

    def __init__(
        self,
        sampler: PatchSampler,
        turn: PatchTransform,
        alter: Alteration | None = None,
        fates: Sequence[float] = (0.25, 0.25, 0.25, 0.25),
        painted: tuple[int, int] = (0, 3),
        places: str | None = None,
        tissue: tuple[float, float] = (-1.0, 1.5),
        margin_voxels: int = 1,
        connectivity: Connectivity = 26,
    ) -> None:
        if len(fates) != len(Fate) or min(fates) < 0 or abs(sum(fates) - 1) > 1e-6:
            raise ValueError(f"fates {fates} are not {len(Fate)} probabilities of sum 1")
        if not 0 <= painted[0] <= painted[1]:
            raise ValueError(f"painted {painted} is not a range of counts")
        self.sampler, self.turn, self.alter = sampler, turn, alter
        self.fates = tuple(float(share) for share in fates)
        self.painted = (int(painted[0]), int(painted[1]))
        self.places, self.tissue = places, (float(tissue[0]), float(tissue[1]))
        self.margin_voxels, self.connectivity = margin_voxels, connectivity

    def plan(
        self, visits: Sequence[Visit], donors: Donors | None, generator: np.random.Generator
    ) -> Plan:
        """Choose a patch, what happens to its lesions, and lesions to insert.

        Args:
            visits: scans with masks of all lesions.
            donors: whose lesions are painted; None paints none.
            generator: keyed by (seed, step, element).
        """
        spec = self.sampler.draw(visits, generator)
        visit, size = visits[spec.subject], self.sampler.size
        names = (LESIONS,) if self.places is None else (LESIONS, self.places)
        image = np.empty((1, *size), np.float32)
        masks = np.empty((len(names), *size), np.float32)
        placement = self.turn.fill(visit, spec.centre, (FLAIR,), names, generator, image, masks)
        scan, inside = image[0], masks >= 0.5
        copies = np.repeat(image, 2, axis=0)
        if self.alter is not None:
            self.alter.alter(copies, COPIES, visit.grid, generator)

        lesions, count = label_lesions(inside[0], self.connectivity)
        fates = tuple(Fate(int(f)) for f in generator.choice(len(Fate), count, p=self.fates))
        gone = np.array([(False, False), *(ERASED[fate] for fate in fates)])  # (count + 1, 2)
        erased = np.moveaxis(gone[lesions], -1, 0)  # (2, X, Y, Z)
        kept = inside[0] & ~erased
        erase = np.stack([widened(mask, self.margin_voxels) for mask in erased]) & ~kept
        new = erased[0] & ~erased[1]

        paint = np.zeros_like(erase)
        if donors is not None:
            taken = widened(inside[0], 1 + 2 * self.margin_voxels)
            allowed = (scan > self.tissue[0]) & (scan < self.tissue[1]) & (scan != 0)
            white = np.ones(size, bool) if self.places is None else inside[1]
            origin = placement.origin(spec.centre, size)
            for _ in range(int(generator.integers(self.painted[0], self.painted[1] + 1))):
                into = PAINTED[int(generator.integers(len(PAINTED)))]
                mask = self._place(
                    visit, donors, origin, placement.matrix, generator, taken, allowed, white
                )
                if mask is None:
                    continue
                taken |= widened(mask, 1 + 2 * self.margin_voxels)
                for copy, painted in zip(paint, into, strict=True):
                    copy |= mask & painted
                if into == (False, True):
                    new |= mask
        return Plan(copies, lesions, fates, erase, paint, new, visit.id, generator)

    def _place(
        self,
        visit: Visit,
        donors: Donors,
        origin: NDArray[np.float64],
        matrix: NDArray[np.float64],
        generator: np.random.Generator,
        taken: Mask,
        allowed: Mask,
        white: Mask,
    ) -> Mask | None:
        """A lesion of another patient that fits into the patch, or None."""
        for _ in range(TRIES):
            mask = donors.transplant(visit, origin, matrix, self.sampler.size, generator)
            if mask is None or (mask & taken).any():
                continue
            if allowed[mask].mean() >= 0.75 and white[mask].mean() >= 0.5:
                return mask
        return None

    def render(
        self,
        plans: Sequence[Plan],
        inpainter: nn.Module | None,
        generator: nn.Module | None,
    ) -> tuple[Patch, Patch]:
        """Render pairs; each network is applied to all patches at once.

        Only the voxels to be changed take what a network made; every other voxel stays.

        Args:
            plans: what to make.
            inpainter: (N, 1, X, Y, Z) with noise -> healthy; None leaves the noise, whose mean is
                that of the patch.
            generator: (N, 2, X, Y, Z) of image with noise and lesion mask -> image with lesions.

        Returns:
            Images (B, 2, X, Y, Z) of the two time points, and new lesions (B, 1, X, Y, Z).
        """
        images = np.concatenate([plan.copies for plan in plans])  # (2 B, X, Y, Z)
        erase = np.concatenate([plan.erase for plan in plans])
        paint = np.concatenate([plan.paint for plan in plans])
        noise = [plan.generator for plan in plans for _ in range(2)]
        self._replace(images, erase, noise, inpainter, None)
        if generator is not None:
            wide = np.stack([widened(mask, self.margin_voxels) for mask in paint])
            self._replace(images, wide, noise, generator, paint)
        new = np.stack([plan.new for plan in plans])[:, None].astype(np.float32)
        return images.reshape(len(plans), 2, *images.shape[1:]), new

    def _replace(
        self,
        images: Patch,
        where: Mask,
        noise: Sequence[np.random.Generator],
        network: nn.Module | None,
        lesions: Mask | None,
    ) -> None:
        """Replace voxels by noise, then by the network's output, in place."""
        for image, mask, generator in zip(images, where, noise, strict=True):
            fill_with_noise(image, mask, generator)
        chosen = np.flatnonzero(where.any(axis=(1, 2, 3)))
        if network is None or not len(chosen):
            return
        scales = [scale_of(images[index]) for index in chosen]
        given = np.stack(
            [
                (images[i] - middle) / spread
                for i, (middle, spread) in zip(chosen, scales, strict=True)
            ]
        )
        channels = [given] if lesions is None else [given, lesions[chosen].astype(np.float32)]
        answer = run_frozen(network, np.stack(channels, axis=1))[:, 0]
        for index, made, (middle, spread) in zip(chosen, answer, scales, strict=True):
            images[index][where[index]] = made[where[index]] * spread + middle


def run_frozen(network: nn.Module, images: Patch) -> Patch:
    """Output of a network (N, K, X, Y, Z) without gradients, on the network's device.

    A single volume goes through twice: torch convolves one float32 volume far slower than two.
    """
    if len(images) == 1:
        return run_frozen(network, np.repeat(images, 2, axis=0))[:1]
    device = next(network.parameters()).device
    with torch.inference_mode():
        answer = network(torch.from_numpy(np.ascontiguousarray(images)).to(device))
        return np.asarray(answer.float().cpu().numpy())


class Donors:
    """Lesions of all scans, for transplantation to the corresponding place of another brain.

    Brains correspond by their boxes: a place is carried from one to the other so that the first and
    last percent of the brain's voxels along each axis (right, anterior, superior) fall together,
    which is the scaling and shift of an affine registration without its rotation and shear.

    Args:
        visits: whose lesions there are.
        connectivity: of the voxels of one lesion.
    """

    def __init__(self, visits: Sequence[Visit], connectivity: Connectivity = 26) -> None:
        self.visits = list(visits)
        self.connectivity = connectivity
        self.patients = [visit.patient for visit in visits]
        self._lesions: dict[int, tuple[NDArray[np.uint32], NDArray[np.int64], int]] = {}
        self._boxes: dict[str, NDArray[np.float64]] = {}
        self._table: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]] | None = None

    def transplant(
        self,
        visit: Visit,
        origin: NDArray[np.float64],
        matrix: NDArray[np.float64],
        size: tuple[int, int, int],
        generator: np.random.Generator,
    ) -> Mask | None:
        """A lesion of another patient as a mask in the patch.

        Args:
            visit: into which it goes.
            origin: (3,) voxel of the visit at the patch's first voxel.
            matrix: (3, 3) steps of the patch in voxels of the visit.
            size: of the patch.
            generator: of all draws.

        Returns:
            (X, Y, Z), or None where no lesion of another patient has its centre in the patch.
        """
        here, inverse = self._box(visit), np.linalg.inv(matrix)
        owner, numbers, places = self._all()
        centres = (here[0] + places * (here[1] - here[0]) - origin) @ inverse.T
        fits = ((centres >= 0) & (centres <= np.array(size) - 1)).all(1)
        fits &= np.array([self.patients[index] != visit.patient for index in owner], bool)
        chosen = np.flatnonzero(fits)
        if not len(chosen):
            return None
        lesion = int(chosen[generator.integers(len(chosen))])
        donor, number = int(owner[lesion]), int(numbers[lesion])
        labels, corner, _ = self._of(donor)
        voxels = np.argwhere(labels == number) + corner
        there = self._box(self.visits[donor])
        scale = (here[1] - here[0]) / np.maximum(there[1] - there[0], 1.0)
        # donor voxel -> voxel of the visit -> patch voxel
        inside = ((voxels - there[0]) * scale + here[0] - origin) @ inverse.T
        low = np.clip(np.floor(inside.min(0)) - 1, 0, size).astype(int)
        high = np.clip(np.ceil(inside.max(0)) + 2, 0, size).astype(int)
        grid = np.indices(high - low).reshape(3, -1).T + low  # backwards, so that no hole opens
        source = ((grid @ matrix.T + origin - here[0]) / scale + there[0]) - corner
        nearest = np.rint(source).astype(int)
        valid = ((nearest >= 0) & (nearest < labels.shape)).all(1)
        hit = np.zeros(len(grid), bool)
        hit[valid] = labels[tuple(nearest[valid].T)] == number
        mask = np.zeros(size, bool)
        mask[tuple(grid[hit].T)] = True
        return mask if hit.any() else None

    def _all(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Visit, number and relative centre (in the brain's box) of all lesions."""
        if self._table is None:
            owner, numbers, places = [], [], [np.zeros((0, 3))]
            for index, visit in enumerate(self.visits):
                labels, corner, count = self._of(index)
                box = self._box(visit)
                for number in range(1, count + 1):
                    centre = np.argwhere(labels == number).mean(0) + corner
                    owner.append(index)
                    numbers.append(number)
                    places.append((centre - box[0])[None] / np.maximum(box[1] - box[0], 1.0))
            self._table = (
                np.array(owner, np.int64),
                np.array(numbers, np.int64),
                np.concatenate(places),
            )
        return self._table

    def _of(self, index: int) -> tuple[NDArray[np.uint32], NDArray[np.int64], int]:
        """Numbered lesions of a visit in their box, its corner, their number; read when needed."""
        known = self._lesions.get(index)
        if known is None:
            mask = self.visits[index].mask(LESIONS)
            places = np.argwhere(mask)
            low = places.min(0) if len(places) else np.zeros(3, np.int64)
            high = places.max(0) + 1 if len(places) else np.ones(3, np.int64)
            box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            labels, count = label_lesions(mask[box], self.connectivity)
            known = self._lesions[index] = (labels, low, count)
        return known

    def _box(self, visit: Visit) -> NDArray[np.float64]:
        """(2, 3) first and last percent of the brain's voxels along each axis."""
        known = self._boxes.get(visit.id)
        if known is None:
            voxels = visit.voxels(BRAIN)
            if not len(voxels):
                voxels = np.array([[0, 0, 0], np.array(visit.grid.shape) - 1])
            known = np.percentile(voxels, [1.0, 99.0], axis=0)
            self._boxes[visit.id] = known
        return known
