"""Lesion F1 of stored scores by other published rules of what a found lesion is.

Scores keep every lesion of both masks, its size and all overlaps, so that a rule needs no image.
Only lesions above the volume limit of the scores take part, as in the official rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from msseg_lightning.evaluate.case_score import CaseScore


def official(score: CaseScore) -> float | None:
    """F1 of the challenge's tool."""
    return score.official.get("F1_score")


def any_overlap(score: CaseScore) -> float | None:
    """F1 of LTPR and 1 - LFPR: one shared voxel is enough, in both directions."""
    true, predicted = _counts(score)
    found = len({one for one, _, _ in score.overlaps})
    right = len({other for _, other, _ in score.overlaps})
    return _f1(found, true, right, predicted)


def overlap_ratio(least: float) -> Callable[[CaseScore], float | None]:
    """F1 of lesions that are matched one to one with intersection over union >= ``least``.

    Of all one-to-one matchings one with the most matches counts.
    """

    def f1(score: CaseScore) -> float | None:
        true, predicted = _counts(score)
        size = {one.label: one.voxels for one in score.reference_lesions}
        other_size = {one.label: one.voxels for one in score.predicted_lesions}
        allowed = np.zeros((true, predicted))
        for one, other, shared in score.overlaps:
            union = size[one] + other_size[other] - shared
            allowed[one - 1, other - 1] = shared >= least * union
        matched = int(allowed[linear_sum_assignment(allowed, maximize=True)].sum())
        return _f1(matched, true, matched, predicted)

    return f1


def lesion_by_lesion(score: CaseScore) -> float | None:
    """F1 where a match is asked of each two lesions: S13's test.

    A true lesion is found if more than 10 % of it is covered and the predicted lesions that make up
    65 % of the cover, the largest first, lie inside *this* lesion by at least 30 %; precision asks
    the same the other way round. The official rule compares with all lesions of the mask instead.
    S13's 18-connected components and lesions of any size are not reproduced.
    """
    true, predicted = _counts(score)
    size = {one.label: one.voxels for one in score.reference_lesions}
    other_size = {one.label: one.voxels for one in score.predicted_lesions}
    pairs = score.overlaps
    found = _found(pairs, size, other_size)
    right = _found(tuple((b, a, voxels) for a, b, voxels in pairs), other_size, size)
    return _f1(found, true, right, predicted)


def _found(
    pairs: tuple[tuple[int, int, int], ...], size: Mapping[int, int], detector: Mapping[int, int]
) -> int:
    """Lesions found by the rule of ``lesion_by_lesion``."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for one, other, shared in pairs:
        rows.setdefault(one, []).append((shared, other))
    count = 0
    for one, row in rows.items():
        cover = sum(shared for shared, _ in row)
        if not cover / size[one] > 0.10:
            continue
        explained, acceptable = 0.0, True
        for shared, other in sorted(row, key=lambda item: (-item[0], item[1])):
            if explained >= 0.65 or not acceptable:
                break
            acceptable = 1 - shared / detector[other] <= 0.70
            explained += shared / cover
        count += acceptable
    return count


def _counts(score: CaseScore) -> tuple[int, int]:
    """Lesions of the reference and of the prediction above the volume limit."""
    return int(score.detection["n_ref"] or 0), int(score.detection["n_test"] or 0)


def _f1(found: int, true: int, right: int, predicted: int) -> float | None:
    """Harmonic mean of both shares; None without a true lesion, 0 where nothing is found."""
    if not true:
        return None
    sensitivity, precision = found / true, right / predicted if predicted else 0.0
    total = sensitivity + precision
    return 2 * sensitivity * precision / total if total else 0.0


RULES: Mapping[str, Callable[[CaseScore], float | None]] = {
    "official": official,
    "any overlap": any_overlap,
    "IoU 0.1": overlap_ratio(0.1),
    "IoU 0.5": overlap_ratio(0.5),
    "lesion by lesion": lesion_by_lesion,
}
"""Name -> F1 of a pair with new lesions; None where it is undefined."""
