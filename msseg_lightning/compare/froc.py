"""Free-response curves: sensitivity over false lesions per patient, by the score of the lesions.

The score of a predicted lesion is the mean of the probability map inside of it. For every least
score the lesions below it are dropped and the official rule is asked again, in both directions.
Lesions that the system's own threshold has dropped never come back, so a curve ends where the
system works.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.compare.systems import System
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.evaluate.case_score import CaseScore, ScoreOptions
from msseg_lightning.evaluate.foreground_runs import describe_components, find_runs
from msseg_lightning.evaluate.lesion_matching import detected_lesions
from msseg_lightning.read.nifti import GateOptions, read_volume

log = logging.getLogger(__name__)

Values = NDArray[np.float64]

OPERATING_POINTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""False lesions per patient at which the sensitivity is told."""
LEVELS = 40
"""Least scores that are tried at most."""
SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class FrocCurve:
    """Free-response curve of a system.

    Args:
        false_per_patient: of patients with and without new lesions, ascending.
        sensitivity: share of all true lesions that are found.
        at: sensitivity at each of ``OPERATING_POINTS``.
        mean: of ``at``.
        interval: bootstrap 95 % interval of the mean over patients; None of a single patient.
    """

    false_per_patient: tuple[float, ...]
    sensitivity: tuple[float, ...]
    at: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None


def froc_curve(system: System, options: ScoreOptions, seed: int = 0) -> FrocCurve | None:
    """The curve of a system; None, with a warning, where maps are missing or not of its masks.

    Args:
        system: from ``read_systems``; its seeds are pooled.
        options: thresholds of the official rule.
        seed: of the bootstrap.
    """
    cases: list[tuple[str, CaseScore, Values]] = []
    for number, scores in system.seeds.items():
        for pair, score in scores.items():
            found = lesion_scores(score, system.predictions[number][pair], pair)
            if found is None:
                log.warning(
                    "%s has no free-response curve: no probability map of pair %s of the mask that "
                    "was scored",
                    system.name,
                    pair,
                )
                return None
            cases.append((system.patients[pair], score, found))
    if not any(score.detection["n_ref"] for _, score, _ in cases):
        return None
    patients = sorted({patient for patient, _, _ in cases})
    levels = _levels(np.concatenate([found for _, _, found in cases]))
    table = np.zeros((len(patients), 3, len(levels)))  # true, found, false
    place = {patient: index for index, patient in enumerate(patients)}
    for patient, score, found in cases:
        table[place[patient]] += _counts(score, found, levels, options)
    table /= len(system.seeds)
    false, sensitivity = _curve(table.sum(0), len(patients))
    at = _at_points(false[None], sensitivity[None])[0]
    count = len(patients)
    interval = None
    if count > 1:
        drawn = keyed_generator(seed, "compare.froc").multinomial(
            count, np.full(count, 1 / count), size=SAMPLES
        )
        sampled = np.tensordot(drawn.astype(float), table, axes=1)
        sampled = sampled[sampled[:, 0, 0] > 0]
        means = _at_points(*_curve(sampled, count)).mean(-1)
        low, high = np.percentile(means, (2.5, 97.5))
        interval = float(low), float(high)
    return FrocCurve(
        tuple(false.tolist()),
        tuple(sensitivity.tolist()),
        tuple(at.tolist()),
        float(at.mean()),
        interval,
    )


def lesion_scores(score: CaseScore, folder: Path, pair: str) -> Values | None:
    """Mean probability of every predicted lesion above the volume limit, largest first.

    Args:
        score: of the mask.
        folder: with ``<pair>.nii.gz`` and ``<pair>_probability.nii.gz``.
        pair: id.

    Returns:
        None where a file is missing or the mask is not the one that was scored.
    """
    counted = int(score.detection["n_test"] or 0)
    if not counted:
        return np.zeros(0)
    mask_file, map_file = (folder / f"{pair}{end}.nii.gz" for end in ("", "_probability"))
    if not (mask_file.is_file() and map_file.is_file()):
        return None
    mask = read_volume(mask_file, "mask", GateOptions(largest_mask_fraction=1.0))
    probability = read_volume(map_file, "probability")
    if not mask.grid.same_as(probability.grid):
        return None
    runs = find_runs(mask.data)
    components = describe_components(runs)
    sizes = [lesion.voxels for lesion in score.predicted_lesions]
    if components.voxels.tolist() != sizes:
        return None
    values = probability.data.reshape(-1, order="F" if runs.x_fastest else "C")
    inside = np.concatenate(
        [values[start:stop] for start, stop in zip(runs.start, runs.stop, strict=True)]
    ).astype(np.float64)
    owner = np.repeat(components.of_run, runs.stop - runs.start)
    means = np.bincount(owner, weights=inside, minlength=len(sizes)) / components.voxels
    found: Values = means[:counted]
    return found


def _levels(scores: Values) -> Values:
    """Least scores, descending from above all of them to the smallest."""
    distinct = np.unique(scores)
    if len(distinct) > LEVELS:
        distinct = np.unique(np.quantile(distinct, np.linspace(0, 1, LEVELS), method="lower"))
    return np.concatenate(([np.inf], distinct[::-1]))


def _counts(score: CaseScore, scores: Values, levels: Values, options: ScoreOptions) -> Values:
    """(3, levels) true, found and false lesions of a pair."""
    thresholds = options.alpha, options.beta, options.gamma
    true = np.array([one.voxels for one in score.reference_lesions if one.counted], np.int64)
    predicted = np.array([one.voxels for one in score.predicted_lesions if one.counted], np.int64)
    pairs = np.array(score.overlaps, np.int64).reshape(-1, 3) - (1, 1, 0)
    counts = np.zeros((3, len(levels)))
    counts[0] = len(true)
    for index, level in enumerate(levels):
        kept = np.flatnonzero(scores >= level)
        number = np.full(len(predicted), -1)
        number[kept] = np.arange(len(kept))
        left = pairs[number[pairs[:, 1]] >= 0]
        left = np.column_stack((left[:, 0], number[left[:, 1]], left[:, 2]))
        found = detected_lesions(left, true, predicted[kept], thresholds)
        right = detected_lesions(left[:, [1, 0, 2]], predicted[kept], true, thresholds)
        counts[1:, index] = found.sum(), len(kept) - right.sum()
    return counts


def _curve(counts: Values, patients: int) -> tuple[Values, Values]:
    """False lesions per patient and sensitivity from (..., 3, levels) counts.

    Of a smaller number of false lesions the best sensitivity counts, so that it never falls.
    """
    false = np.maximum.accumulate(counts[..., 2, :], axis=-1) / patients
    sensitivity = np.maximum.accumulate(counts[..., 1, :] / counts[..., 0, :], axis=-1)
    return false, sensitivity


def _at_points(false: Values, sensitivity: Values) -> Values:
    """(curves, points) sensitivity with at most so many false lesions."""
    allowed = false[:, None, :] <= np.array(OPERATING_POINTS)[None, :, None] + 1e-12
    best: Values = np.where(allowed, sensitivity[:, None, :], 0).max(-1)
    return best


def froc_curves(
    systems: Sequence[System], options: ScoreOptions, seed: int = 0
) -> Mapping[str, FrocCurve]:
    """Curves of the systems that have probability maps."""
    curves = {one.name: froc_curve(one, options, seed) for one in systems}
    return {name: curve for name, curve in curves.items() if curve is not None}
