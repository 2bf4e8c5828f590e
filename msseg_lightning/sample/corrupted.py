"""Corrupted patches and their originals, for training inpainting networks."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Grid
from msseg_lightning.sample.loader import Loader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler
from msseg_lightning.sample.visit import FLAIR, LESIONS, Visit, VisitSource, visits_of

Patch = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Alteration(Protocol):
    """Protocol of intensity augmentation in place, as ``augment.fused.FusedAugment``."""

    def alter(
        self,
        images: Patch,
        image_names: Sequence[str],
        grid: Grid,
        generator: np.random.Generator,
    ) -> Any:
        """Change ``images`` (C, X, Y, Z)."""


def fill_with_noise(image: Patch, where: Mask, generator: np.random.Generator) -> None:
    """Replace voxels by noise of the patch's own mean and standard deviation, in place.

    Both are taken from the tissue of the patch (voxels that are not 0; the whole patch where there
    is none), or noise in a patch at the edge of the brain would be that of the air.
    """
    tissue = image[image != 0]
    values = tissue if tissue.size else image.ravel()
    image[where] = generator.normal(values.mean(), values.std(), int(where.sum()))


def scale_of(image: Patch) -> tuple[float, float]:
    """Mean and standard deviation by which patches are standardised.

    Their norms forget brightness and contrast of what they see, so the patch that they are to make
    is told in the units of the one they are given: whichever scanner made it, it is the same task.
    """
    return float(image.mean()), max(float(image.std()), 1e-6)


def widened(mask: Mask, voxels: int) -> Mask:
    """The mask dilated by a number of voxels."""
    if voxels < 1 or not mask.any():
        return mask
    return np.asarray(ndimage.binary_dilation(mask, iterations=voxels))


def random_ellipsoids(
    tissue: Mask,
    count: tuple[int, int],
    radius_voxels: tuple[float, float],
    generator: np.random.Generator,
) -> Mask:
    """Ellipsoids about random voxels of a mask, each half-axis drawn on its own.

    Args:
        tissue: (X, Y, Z) where centres may lie; an empty mask gives an empty result.
        count: fewest and most.
        radius_voxels: smallest and largest half-axis.
        generator: of all draws.
    """
    found = np.zeros(tissue.shape, bool)
    places = np.argwhere(tissue)
    if not len(places):
        return found
    for _ in range(int(generator.integers(count[0], count[1] + 1))):
        centre = places[generator.integers(len(places))]
        axes = generator.uniform(*radius_voxels, 3)
        low = np.maximum(np.floor(centre - axes).astype(int), 0)
        high = np.minimum(np.ceil(centre + axes).astype(int) + 1, tissue.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        offsets = np.ogrid[box]
        distance = sum(
            ((place - middle) / axis) ** 2
            for place, middle, axis in zip(offsets, centre, axes, strict=True)
        )
        found[box] |= np.asarray(distance <= 1)
    return found


class Corrupted(Loader):
    """Base class of loaders of corrupted patches and their originals.

    ``Batch.target`` has two channels: the clean patch and the mask of the voxels replaced by noise
    (see ``loss.reconstruction``). Both visits of a pair serve, each as a scan of its own. Input and
    clean patch are counted in the mean and standard deviation of the input (``scale_of``).

    Args:
        subjects: prepared subjects; their visits with a mask of all lesions are used.
        sampler: where patches lie; it sees each visit's mask by the name ``lesions``.
        augment: cuts and turns the patch; the clean one is made by it.
        image_names, target_names: as every loader gets them; not used, a visit has one image.
        corrupt: intensity changes of the input alone, beside the noise; None for none.
        margin_voxels: how far around a lesion it still brightens the tissue (partial volume).
        visits: scans to learn from in place of the training pairs, where it has any.
        others: see ``Loader``.
    """

    channels = 1
    """Of the input."""

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: PatchSampler,
        augment: PatchMaker,
        image_names: Sequence[str] = (),
        target_names: Sequence[str] = (),
        corrupt: Alteration | None = None,
        margin_voxels: int = 1,
        visits: VisitSource | None = None,
        **others: Any,
    ) -> None:
        self.visits = visits_of(subjects, visits)
        super().__init__(self.visits, (FLAIR,), (FLAIR, LESIONS), **others)
        self.sampler, self.augment, self.corrupt = sampler, augment, corrupt
        self.margin_voxels = margin_voxels

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The input; the clean patch and what was replaced."""
        return (self.channels, *self.sampler.size), (2, *self.sampler.size)

    def make(self, step: int, element: int, images: Patch, labels: Patch) -> str:
        """Write one element; returns the id of its scan."""
        image, target, name = self.element(step, element)
        middle, spread = scale_of(image[0])
        for patch in (image, target):
            patch[0] = (patch[0] - middle) / spread
        images[:], labels[:] = image, target
        return name

    @abc.abstractmethod
    def element(self, step: int, number: int) -> tuple[Patch, Patch, str]:
        """Input (C, X, Y, Z), clean patch with mask (2, X, Y, Z), id; in prepared intensities."""

    def cut(self, visit: Visit, centre: NDArray[np.float64], *key: int | str) -> tuple[Patch, Mask]:
        """The patch (X, Y, Z) and its lesions."""
        image = np.empty((1, *self.sampler.size), np.float32)
        lesions = np.empty((1, *self.sampler.size), np.float32)
        generator = keyed_generator(self.seed, "cut", *key)
        self.augment.fill(visit, centre, (FLAIR,), (LESIONS,), generator, image, lesions)
        return image[0], lesions[0] >= 0.5

    def damaged(self, clean: Patch, where: Mask, visit: Visit, *key: int | str) -> Patch:
        """A corrupted copy of the patch with noise at the given voxels."""
        image = clean[None].copy()
        if self.corrupt is not None:
            generator = keyed_generator(self.seed, "corrupt", *key)
            self.corrupt.alter(image, (FLAIR,), visit.grid, generator)
        fill_with_noise(image[0], where, keyed_generator(self.seed, "noise", *key))
        return image[0]


class LesionFreePatches(Corrupted):
    """Patches without lesions in which random regions are replaced by noise.

    A drawn patch with a lesion voxel, or with too many bright ones (unmarked lesions), is
    drawn again. When ``tries`` draws have failed the healthiest of them is taken, and regions keep
    away from what is not healthy in it.

    Args:
        regions: fewest and most ellipsoids.
        radius_voxels: smallest and largest half-axis of an ellipsoid.
        hyperintense: prepared intensity above which a voxel is bright.
        most_hyperintense: share of bright voxels up to which a patch is healthy.
        tries: draws per element.

    The other arguments are those of ``Corrupted``.
    """

    def __init__(
        self,
        *args: Any,
        regions: tuple[int, int] = (1, 8),
        radius_voxels: tuple[float, float] = (1.5, 6.0),
        hyperintense: float = 3.0,
        most_hyperintense: float = 0.001,
        tries: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        low, high = regions
        self.regions = (int(low), int(high))
        self.radius_voxels = (float(radius_voxels[0]), float(radius_voxels[1]))
        self.hyperintense, self.most_hyperintense = hyperintense, most_hyperintense
        self.tries = tries

    def element(self, step: int, number: int) -> tuple[Patch, Patch, str]:
        """See ``Corrupted``."""
        generator = keyed_generator(self.seed, "sample", step, number)
        best: tuple[int, Visit, Patch, Mask] | None = None
        for attempt in range(self.tries):
            spec = self.sampler.draw(self.visits, generator)
            visit = self.visits[spec.subject]
            clean, lesions = self.cut(visit, spec.centre, step, number, attempt)
            bright = clean > self.hyperintense
            sick = int(lesions.sum())
            if bright.mean() > self.most_hyperintense:
                sick += int(bright.sum())
            if best is None or sick < best[0]:
                best = (sick, visit, clean, lesions | bright)
            if sick == 0:
                break
        assert best is not None  # tries is at least one
        _, visit, clean, unhealthy = best
        unhealthy = widened(unhealthy, self.margin_voxels)
        healthy = (clean != 0) & ~unhealthy
        where = random_ellipsoids(healthy, self.regions, self.radius_voxels, generator)
        where &= healthy
        image = self.damaged(clean, where, visit, step, number)
        return image[None].copy(), np.stack([clean, where.astype(np.float32)]), visit.id


class LesionPatches(Corrupted):
    """Patches in which lesions are replaced by noise, and their mask.

    The input has two channels, the corrupted patch and the mask of lesions. The arguments are those
    of ``Corrupted``.
    """

    channels = 2

    def element(self, step: int, number: int) -> tuple[Patch, Patch, str]:
        """See ``Corrupted``."""
        spec = self.sampler.draw(self.visits, keyed_generator(self.seed, "sample", step, number))
        visit = self.visits[spec.subject]
        clean, lesions = self.cut(visit, spec.centre, step, number)
        where = widened(lesions, self.margin_voxels)
        image = self.damaged(clean, where, visit, step, number)
        given = np.stack([image, lesions.astype(np.float32)])
        return given, np.stack([clean, where.astype(np.float32)]), visit.id
