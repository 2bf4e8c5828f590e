"""Matching of predicted and true lesions by the challenge's rule.

A lesion is a 6-connected component with a volume strictly above the limit; smaller ones are erased
from both masks first. A lesion of one mask is detected by the lesions of the other when

* more than ``alpha`` of it is covered, and
* among the lesions that cover it, taken from the largest overlap down until they make up ``gamma``
  of the covered part, none lies by more than ``beta`` of its own size outside *all* lesions.

The rule runs once per direction with the same thresholds. There is no one-to-one assignment: one
prediction may find several lesions and one lesion may be found in pieces. Equal overlaps are
visited in order of lesion number, or, where the other mask has more than 16 lesions, in the order
the official tool's sort leaves them in (see ``tie_order``).

Reference:
    Commowick et al. 2018, https://doi.org/10.1038/s41598-018-31911-7, and the behaviour of
    animaSegPerfAnalyzer 4.2.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from msseg_lightning.evaluate.foreground_runs import (
    Components,
    ForegroundRuns,
    Indices,
    count_overlaps,
    describe_components,
)
from msseg_lightning.evaluate.tie_order import descending_order


@dataclasses.dataclass(frozen=True)
class LesionMatch:
    """Result of matching the lesions of two masks.

    Arrays cover all components in order of size; the first ``reference_counted`` (or
    ``prediction_counted``) of them are lesions, the others lie below the volume limit.

    Args:
        reference: components of the reference.
        prediction: components of the prediction.
        reference_counted: number of lesions of the reference above the volume limit.
        prediction_counted: the same for the prediction.
        reference_found: (lesions,) bool, detected.
        prediction_found: (lesions,) bool, matched.
        reference_overlap: (components,) voxels shared with anything in the prediction.
        prediction_overlap: (components,) voxels shared with anything in the reference.
        pairs: (n, 3) lesion of the reference, lesion of the prediction (0-based), shared voxels.
    """

    reference: Components
    prediction: Components
    reference_counted: int
    prediction_counted: int
    reference_found: np.ndarray
    prediction_found: np.ndarray
    reference_overlap: Indices
    prediction_overlap: Indices
    pairs: Indices

    @property
    def sensitivity(self) -> float | None:
        """Detected share of the true lesions (SensL); None without true lesions."""
        if not self.reference_counted:
            return None
        return int(self.reference_found.sum()) / self.reference_counted

    @property
    def precision(self) -> float:
        """Matched share of the predicted lesions (PPVL); 0 without predicted lesions."""
        if not self.prediction_counted:
            return 0.0
        return int(self.prediction_found.sum()) / self.prediction_counted

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and precision; 0 where it is undefined."""
        sensitivity, precision = self.sensitivity, self.precision
        if sensitivity is None or not precision + sensitivity > 0:
            return 0.0
        return 2 * precision * sensitivity / (precision + sensitivity)


def minimum_voxels(volume_mm3: float, voxel_volume_mm3: float) -> int:
    """Smallest number of voxels with a volume above a limit."""
    return math.floor(volume_mm3 / voxel_volume_mm3) + 1


def match_lesions(
    prediction: ForegroundRuns,
    reference: ForegroundRuns,
    minimum: int,
    alpha: float = 0.10,
    beta: float = 0.70,
    gamma: float = 0.65,
) -> LesionMatch:
    """Match predicted and true lesions in both directions.

    Args:
        prediction: runs of the predicted mask.
        reference: runs of the reference.
        minimum: voxels a component must have to be a lesion.
        alpha: share of a lesion that must be exceeded by its covered part.
        beta: largest share of a covering lesion outside all lesions.
        gamma: share of the covered part that has to be explained by acceptable lesions.
    """
    true, predicted = describe_components(reference), describe_components(prediction)
    rows, columns, shared = count_overlaps(reference, true.of_run, prediction, predicted.of_run)
    true_count = int((true.voxels >= minimum).sum())
    predicted_count = int((predicted.voxels >= minimum).sum())
    both = (rows < true_count) & (columns < predicted_count)
    pairs = np.stack((rows[both], columns[both], shared[both]), axis=1)
    return LesionMatch(
        reference=true,
        prediction=predicted,
        reference_counted=true_count,
        prediction_counted=predicted_count,
        reference_found=detected_lesions(
            pairs,
            true.voxels[:true_count],
            predicted.voxels[:predicted_count],
            (alpha, beta, gamma),
        ),
        prediction_found=detected_lesions(
            pairs[:, [1, 0, 2]],
            predicted.voxels[:predicted_count],
            true.voxels[:true_count],
            (alpha, beta, gamma),
        ),
        reference_overlap=_sums(rows, shared, true.voxels.size),
        prediction_overlap=_sums(columns, shared, predicted.voxels.size),
        pairs=pairs,
    )


def _sums(group: Indices, values: Indices, size: int) -> Indices:
    return np.bincount(group, weights=values, minlength=size).astype(np.int64)


def detected_lesions(
    pairs: Indices,
    lesions: Indices,
    detectors: Indices,
    thresholds: tuple[float, float, float],
) -> np.ndarray:
    """One direction of the rule: (lesions,) bool.

    Args:
        pairs: (n, 3) lesion, detector (both 0-based), shared voxels.
        lesions: (lesions,) voxels of the lesions that are to be found.
        detectors: (detectors,) voxels of the lesions of the other mask.
        thresholds: alpha, beta, gamma.
    """
    alpha, beta, gamma = thresholds
    covered = _sums(pairs[:, 0], pairs[:, 2], lesions.size)
    outside = detectors - _sums(pairs[:, 1], pairs[:, 2], detectors.size)
    # by lesion, then from the largest overlap down, then by number
    ordered = pairs[np.lexsort((pairs[:, 1], -pairs[:, 2], pairs[:, 0]))]
    first = np.searchsorted(ordered[:, 0], np.arange(lesions.size + 1))
    columns, shared = ordered[:, 1].tolist(), ordered[:, 2].tolist()
    found = np.zeros(lesions.size, dtype=bool)
    for lesion in range(lesions.size):
        total = int(covered[lesion])
        if not total / int(lesions[lesion]) > alpha:
            continue
        part = slice(first[lesion], first[lesion + 1])
        visited = dict(zip(columns[part], shared[part], strict=True))
        if len(set(visited.values())) < len(visited):
            # equal overlaps: lesions without overlap take part in the tool's sort as well
            row = [visited.get(column, 0) for column in range(detectors.size)]
            visited = {column: row[column] for column in descending_order(row)}
        explained = 0.0
        acceptable = True
        for detector, voxels in visited.items():
            if not (explained < gamma and voxels):
                break
            if int(outside[detector]) / int(detectors[detector]) > beta:
                acceptable = False
                break
            explained += voxels / total
        found[lesion] = acceptable
    return found
