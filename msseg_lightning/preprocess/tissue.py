"""Tissue classes of each visit by a Gaussian mixture with the atlas's priors."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Affine, Grid, Volume
from msseg_lightning.preprocess.atlas import affine_of_pair, mni152
from msseg_lightning.preprocess.space import inverse, resample_array
from msseg_lightning.preprocess.step import common_grid, mask_of

CLASSES = ("white_matter", "grey_matter", "fluid", "hyperintense")
"""Masks of each visit, as ``baseline_white_matter``; every voxel of the brain is in one of them."""

LEAST_PRIOR = 0.01
"""Of each class at every voxel: the atlas is never sure where a fold of this brain lies."""


class Mixture(NamedTuple):
    """A Gaussian of the intensities of each tissue class.

    Attributes:
        mean: (3,) of white matter, grey matter and fluid.
        deviation: (3,) standard deviations.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def posterior(
        self, values: NDArray[np.float32], priors: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(3, n) probability of each class.

        Args:
            values: (n,) intensities.
            priors: (3, n) of each class, before the intensity is known.
        """
        distance = (values - self.mean[:, None]) / self.deviation[:, None]
        # the least distance is taken off, so that no voxel has a likelihood of 0 in all classes
        power = -0.5 * distance**2
        joint = priors * np.exp(power - power.max(0)) / self.deviation[:, None]
        return np.asarray(joint / joint.sum(0), np.float32)

    def brightest(self, deviations: float) -> float:
        """The intensity so many standard deviations above the mean of grey matter."""
        return float(self.mean[1] + deviations * self.deviation[1])


def fit_mixture(
    values: NDArray[np.float32],
    priors: NDArray[np.float32],
    lesion_deviations: float,
    iterations: int = 30,
    tolerance: float = 1e-4,
) -> Mixture:
    """Expectation maximisation; what is as bright as a lesion does not count.

    Args:
        values: (n,) intensities.
        priors: (3, n) of white matter, grey matter and fluid.
        lesion_deviations: brighter voxels, in standard deviations above grey matter, are no
            tissue.
        iterations: at most.
        tolerance: change of the means, in standard deviations of all values, that ends it.
    """
    scale = max(float(values.std()), 1e-6)
    weight, mixture, tissue = priors, None, np.ones(len(values), bool)
    for _ in range(iterations):
        total = np.maximum(weight[:, tissue].sum(1, dtype=np.float64), 1e-6)
        seen = values[tissue].astype(np.float64)
        mean = (weight[:, tissue] @ seen) / total
        square = (weight[:, tissue] * (seen - mean[:, None]) ** 2).sum(1)
        deviation = np.maximum(np.sqrt(square / total), 1e-3 * scale)
        before, mixture = mixture, Mixture(mean, deviation)
        if before is not None and np.abs(mean - before.mean).max() < tolerance * scale:
            break
        weight = mixture.posterior(values, priors)
        tissue = values <= mixture.brightest(lesion_deviations)
    assert mixture is not None
    return mixture


@dataclasses.dataclass(frozen=True)
class TissueModel:
    """Add masks of white matter, grey matter, fluid and lesions of both visits (S16).

    MNI152's maps are registered affinely to the mean of the visits; smoothed, they are the priors
    of both. Where that failed, the box of the template's brain is laid onto that of the brain.
    Each visit has a Gaussian mixture of its own. A lesion is what is brighter than grey matter
    where white matter is likely. Images are not changed, but must be 0 outside the brain and of an
    even brightness (``N4``).

    Args:
        lesion_deviations: standard deviations of grey matter above its mean.
        lesion_prior: least prior of white matter of a lesion.
        smoothing_mm: standard deviation of the blur of the atlas, which fits but affinely.
        smoothing_voxels: of the blur of the class probabilities before the largest is taken;
            0 takes them as they are.
        voxels: that the mixtures are fitted to, at most.
        levels_mm: spacings at which the registration works, coarse to fine.
    """

    lesion_deviations: float = 2.5
    lesion_prior: float = 0.3
    smoothing_mm: float = 2.0
    smoothing_voxels: float = 0.5
    voxels: int = 200_000
    levels_mm: tuple[float, ...] = (6.0, 4.0, 3.0)

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        brain = mask_of(subject, BRAIN, self)
        volumes = dict(subject.volumes)
        notes: list[str] = []
        priors = None
        if brain.any():
            way, failed = affine_of_pair(subject, self, self.levels_mm)
            priors = self._priors(way, grid, brain)
            notes += failed
        else:
            notes.append("the brain mask is empty: no tissue")
        for visit, name in (("baseline", BASELINE), ("followup", FOLLOWUP)):
            data = np.asarray(subject.volumes[name].data, np.float32)
            found = np.zeros((len(CLASSES), *grid.shape), bool)
            if priors is not None:
                found[:, brain] = self.classes(data, brain, priors)
            for kind, mask in zip(CLASSES, found, strict=True):
                volumes[f"{visit}_{kind}"] = Volume(mask, grid.affine, "mask")
        return subject.replace(*notes, volumes=volumes)

    def classes(
        self, data: NDArray[np.float32], brain: NDArray[np.bool_], priors: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """(4, n) class of every voxel of the brain, one true in each column.

        Args:
            data: (X, Y, Z) intensities.
            brain: (X, Y, Z) with n voxels.
            priors: (3, n) of white matter, grey matter and fluid.
        """
        values = data[brain]
        chosen = np.arange(len(values))
        if len(chosen) > self.voxels:
            drawn = keyed_generator("tissue", len(values))
            chosen = np.sort(drawn.choice(len(values), self.voxels, replace=False))
        mixture = fit_mixture(values[chosen], priors[:, chosen], self.lesion_deviations)
        posterior = mixture.posterior(values, priors)
        if self.smoothing_voxels:
            posterior = self._smoothed(posterior, brain)
        lesion = values > mixture.brightest(self.lesion_deviations)
        lesion &= priors[0] > self.lesion_prior
        kind = np.where(lesion, 3, posterior.argmax(0))
        return np.asarray(kind == np.arange(len(CLASSES))[:, None])

    def _smoothed(
        self, posterior: NDArray[np.float32], brain: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        for probability in posterior:
            volume = np.zeros(brain.shape, np.float32)
            volume[brain] = probability
            probability[:] = ndimage.gaussian_filter(volume, self.smoothing_voxels)[brain]
        return posterior

    def _priors(self, way: Affine, grid: Grid, brain: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(3, n) priors of the voxels of the brain."""
        atlas, back = mni152(), inverse(way)
        found = []
        for tissue in (atlas.white, atlas.grey):
            smooth = ndimage.gaussian_filter(tissue, self.smoothing_mm)  # the template has 1 mm
            there = resample_array(smooth, atlas.affine, grid, "probability", back)
            found.append(np.asarray(there, np.float32)[brain])
        fluid = np.clip(1 - found[0] - found[1], 0, 1)
        priors = np.maximum(np.stack([*found, fluid]), LEAST_PRIOR)
        return np.asarray(priors / priors.sum(0), np.float32)
