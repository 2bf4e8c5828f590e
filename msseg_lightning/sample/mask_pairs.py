"""Pairs of a predicted and a true mask whose lesion-wise F1 is known and evenly spread.

True masks are patches of the training pairs' targets; predictions are made from them by losing,
deforming and inventing lesions. Nothing is predicted by a network and no image is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import TARGET
from msseg_lightning.sample.loader import BatchMaker, PatchLoader, PatchMaker
from msseg_lightning.sample.patch import PatchSampler

Mask = NDArray[np.bool_]
Connectivity = Literal[6, 18, 26]
Range = tuple[float, float]


def lesion_f1(predicted: Mask, true: Mask, connectivity: Connectivity = 26) -> float:
    """``2 LTPR LPPV / (LTPR + LPPV)`` by any common voxel (S08; not the official rule).

    LTPR is the share of true lesions that meet a predicted one, LPPV the share of predicted lesions
    that meet a true one. Two empty masks agree (1), one empty mask is 0.

    Args:
        predicted: (X, Y, Z).
        true: the same shape.
        connectivity: of lesions.
    """
    true_labels, lesions = cc3d.connected_components(true, connectivity=connectivity, return_N=True)
    found_labels, findings = cc3d.connected_components(
        predicted, connectivity=connectivity, return_N=True
    )
    if not lesions or not findings:
        return float(lesions == findings)
    both = predicted & true
    met = len(np.unique(true_labels[both])) / lesions
    right = len(np.unique(found_labels[both])) / findings
    return 2 * met * right / (met + right) if met else 0.0


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Settings by which a true mask is corrupted to a predicted one.

    Args:
        most_lesions: true lesions of a pair, at most; foreign ones fill up, surplus ones go.
        most_foreign: invented lesions, at most.
        most_steps: a found lesion is eroded or dilated this often, at most.
        most_shift: and moved by so many voxels along each axis, at most.
        blur_voxels: standard deviation of the blur that makes a map of the mask.
        scale: factor on that map.
        offset: added to it.
        noise: standard deviation of noise on every voxel. The map is cut to [0, 1] at the end.
    """

    most_lesions: int = 8
    most_foreign: int = 4
    most_steps: int = 1
    most_shift: int = 1
    blur_voxels: Range = (0.0, 0.8)
    scale: Range = (0.8, 1.2)
    offset: Range = (-0.05, 0.05)
    noise: Range = (0.0, 0.05)

    def plans(self, bins: int) -> list[list[tuple[int, int, int]]]:
        """For each bin of F1: (true lesions, found ones, foreign ones) that fall into it.

        With every lesion one finding at most, F1 is 2 found / (true + found + foreign).
        """
        chosen: list[list[tuple[int, int, int]]] = [[] for _ in range(bins)]
        for true in range(self.most_lesions + 1):
            for found in range(true + 1):
                for foreign in range(self.most_foreign + 1):
                    total = true + found + foreign
                    value = 2 * found / total if total else 1.0
                    chosen[bin_of(value, bins)].append((true, found, foreign))
        return chosen


def bin_of(value: float, bins: int) -> int:
    """Index of the bin of [0, 1] that contains a value; 1 belongs to the last."""
    return min(int(value * bins + 1e-9), bins - 1)


class MaskPairLoader(PatchLoader):
    """Batches of (predicted, true) masks and their lesion-wise F1.

    Every bin of F1 is equally likely: the bin is drawn first, then pairs are proposed until one
    falls into it (rejection). Values come from the binary masks; only then does the prediction
    become a map. Lesions that are added come from a bank of all lesions of the subjects.

    ``Batch.images`` is (B, 2, X, Y, Z): map, true mask. ``Batch.target`` is (B, 1).

    Args:
        subjects: prepared pairs; their targets alone are read.
        sampler: where true patches lie.
        augment: cuts and mirrors them, on the CPU.
        image_names: not used; part of what every loader is given.
        target_names: the first is the mask.
        corruption: how predictions differ.
        bins: equal bins of [0, 1].
        proposals: after so many the nearest pair is taken.
        connectivity: of lesions.
        others: see ``Loader``.

    Raises:
        MssegError: no subject has a lesion that fits twice into a patch, or a bin cannot be reached
            with so few lesions (exit 2).
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: PatchSampler,
        augment: PatchMaker | BatchMaker,
        image_names: Sequence[str] = (),
        target_names: Sequence[str] = (TARGET,),
        corruption: Corruption = Corruption(),
        bins: int = 10,
        proposals: int = 50,
        connectivity: Connectivity = 26,
        **others: Any,
    ) -> None:
        super().__init__(subjects, sampler, augment, (), target_names[:1], **others)
        if isinstance(augment, BatchMaker):
            raise ValueError("mask pairs are cut on the CPU: use augment.fused.FusedAugment")
        self.corruption, self.bins, self.proposals = corruption, bins, proposals
        self.connectivity: Connectivity = connectivity
        self.plans = corruption.plans(bins)
        self.bank = [
            lesion
            for subject in subjects
            for lesion in lesions_of(subject.mask(self.target_names[0]), connectivity)
            if all(2 * a <= b for a, b in zip(lesion.shape, sampler.size, strict=True))
        ]
        if not self.bank or not all(self.plans):
            raise MssegError(
                Problem(
                    "sample.mask_pairs",
                    "pairs of masks cannot be made with every lesion-wise F1",
                    field="sample.size / loader.corruption",
                    found=f"{len(self.bank)} lesions of less than half a patch, "
                    f"{sum(map(bool, self.plans))} of {bins} bins within reach",
                    expected="lesions, and enough of them per pair to reach every bin",
                    remedy="take larger patches, more lesions per pair, or fewer bins",
                    exit_code=ExitCode.CONFIG,
                )
            )

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two masks; one number."""
        return (2, *self.sampler.size), (1,)

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one pair and its F1; returns the id of the subject whose patch it began with."""
        subject, centre, changes = self.element(step, element)
        size = self.sampler.size
        patch = np.empty((1, *size), np.float32)
        assert not isinstance(self.augment, BatchMaker)
        self.augment.fill(
            subject,
            centre,
            (),
            self.target_names,
            changes,
            np.empty((0, *size), np.float32),
            patch,
        )
        generator = keyed_generator(self.seed, "mask pair", step, element)
        predicted, true, value = self.pair(patch[0] >= 0.5, generator)
        images[0], images[1], labels[:] = self._soften(predicted, generator), true, value
        return subject.id

    def pair(self, patch: Mask, generator: np.random.Generator) -> tuple[Mask, Mask, float]:
        """Predicted mask, true mask and F1 from a patch of a true mask."""
        wanted = int(generator.integers(self.bins))
        best: tuple[float, Mask, Mask, float] | None = None
        for _ in range(self.proposals):
            predicted, true = self._propose(patch, wanted, generator)
            value = lesion_f1(predicted, true, self.connectivity)
            if bin_of(value, self.bins) == wanted:
                return predicted, true, value
            distance = abs(value - (wanted + 0.5) / self.bins)
            if best is None or distance < best[0]:
                best = distance, predicted, true, value
        assert best is not None
        return best[1:]

    def _propose(
        self, patch: Mask, wanted: int, generator: np.random.Generator
    ) -> tuple[Mask, Mask]:
        """A candidate pair for a bin of F1; it may miss the bin if lesions merge or vanish."""
        plan = self.plans[wanted]
        lesions, found, foreign = plan[int(generator.integers(len(plan)))]
        labels, count = cc3d.connected_components(
            patch, connectivity=self.connectivity, return_N=True
        )
        kept = generator.permutation(count)[:lesions] + 1
        true = np.isin(labels, kept) if len(kept) else np.zeros_like(patch)
        for _ in range(lesions - len(kept)):
            self._place(true, true, generator)
        labels, count = cc3d.connected_components(
            true, connectivity=self.connectivity, return_N=True
        )
        predicted = np.zeros_like(true)
        for label in generator.permutation(count)[:found] + 1:
            self._deform(labels == label, predicted, generator)
        taken = true | predicted
        for _ in range(foreign):
            self._place(predicted, taken, generator)
        return predicted, true

    def _place(self, mask: Mask, taken: Mask, generator: np.random.Generator) -> None:
        """Add a randomly rotated lesion of the bank at a free place, if one is found."""
        lesion = self.bank[int(generator.integers(len(self.bank)))]
        lesion = np.flip(lesion, tuple(axis for axis in range(3) if generator.random() < 0.5))
        for _ in range(10):
            start = [
                int(generator.integers(edge - length + 1))
                for edge, length in zip(mask.shape, lesion.shape, strict=True)
            ]
            around = tuple(
                slice(max(0, first - 1), first + length + 1)
                for first, length in zip(start, lesion.shape, strict=True)
            )
            if not taken[around].any():
                inside = tuple(
                    slice(first, first + length)
                    for first, length in zip(start, lesion.shape, strict=True)
                )
                mask[inside] |= lesion
                taken[inside] |= lesion
                return

    def _deform(self, lesion: Mask, predicted: Mask, generator: np.random.Generator) -> None:
        """Add an eroded or dilated, shifted lesion; small lesions are not eroded."""
        steps = int(generator.integers(-self.corruption.most_steps, self.corruption.most_steps + 1))
        most = self.corruption.most_shift
        shift = generator.integers(-most, most + 1, 3)
        reach = abs(steps)
        box = ndimage.find_objects(lesion.astype(np.uint8))[0]
        crop = np.pad(lesion[box], reach)
        if steps > 0:
            crop = ndimage.binary_dilation(crop, iterations=steps)
        elif steps < 0:
            smaller = ndimage.binary_erosion(crop, iterations=-steps)
            crop = smaller if smaller.any() else crop
        places = np.argwhere(crop) + [part.start - reach for part in box] + shift
        inside = ((places >= 0) & (places < predicted.shape)).all(1)
        predicted[tuple(places[inside].T)] = True

    def _soften(self, predicted: Mask, generator: np.random.Generator) -> NDArray[np.float32]:
        """Turn a mask into a probability map like that of a network."""
        change = self.corruption
        values = ndimage.gaussian_filter(
            predicted.astype(np.float32), generator.uniform(*change.blur_voxels)
        )
        values = values * generator.uniform(*change.scale) + generator.uniform(*change.offset)
        noise = generator.standard_normal(values.shape, np.float32)
        values = values + noise * np.float32(generator.uniform(*change.noise))
        return np.clip(values, 0, 1).astype(np.float32)


def lesions_of(mask: Mask, connectivity: Connectivity) -> list[Mask]:
    """Every lesion of a mask, cut out."""
    if not mask.any():
        return []
    labels: Any = cc3d.connected_components(mask, connectivity=connectivity)
    boxes = ndimage.find_objects(labels)
    return [labels[box] == number for number, box in enumerate(boxes, start=1)]
