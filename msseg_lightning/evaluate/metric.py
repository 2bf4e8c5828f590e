"""Single measures as functions, for validation during training and for notebooks.

All take ``(prediction, reference, spacing_mm)`` with masks of one shape (X, Y, Z) and return a
float; NaN where the measure has no value. For a whole table use ``score.score_case``, which costs
one pass for everything.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.evaluate.case_score import ScoreOptions
from msseg_lightning.evaluate.lesion_matching import LesionMatch, match_lesions, minimum_voxels
from msseg_lightning.evaluate.score import checked_runs, checked_spacing, score_case

Mask = NDArray[np.generic]
Spacing = tuple[float, float, float]


def _match(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> LesionMatch:
    options = ScoreOptions()
    spacing = checked_spacing(spacing_mm)
    predicted, true, _ = checked_runs(prediction, reference)
    minimum = minimum_voxels(options.min_lesion_volume_mm3, math.prod(spacing))
    return match_lesions(predicted, true, minimum, options.alpha, options.beta, options.gamma)


def lesion_f1(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Official lesion-wise F1; NaN without reference lesions of more than 3 mm3."""
    match = _match(prediction, reference, spacing_mm)
    return match.f1 if match.reference_counted else math.nan


def lesion_sensitivity(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Share of true lesions that are detected (SensL); NaN without any."""
    sensitivity = _match(prediction, reference, spacing_mm).sensitivity
    return math.nan if sensitivity is None else sensitivity


def lesion_precision(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Share of predicted lesions that are true (PPVL); NaN without reference lesions."""
    match = _match(prediction, reference, spacing_mm)
    return match.precision if match.reference_counted else math.nan


def dice(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Dice of the voxels; NaN for an empty reference. The spacing is not used."""
    predicted, true, _ = checked_runs(prediction, reference)
    if not true.total:
        return math.nan
    shared = match_lesions(predicted, true, 1).reference_overlap.sum()
    return 2 * int(shared) / (predicted.total + true.total)


def false_lesions(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Number of predicted lesions of more than 3 mm3 that match no reference lesion."""
    match = _match(prediction, reference, spacing_mm)
    return float(match.prediction_counted - int(match.prediction_found.sum()))


def false_volume_mm3(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Volume of the false lesions in mm3."""
    match = _match(prediction, reference, spacing_mm)
    voxels = match.prediction.voxels[: match.prediction_counted][~match.prediction_found].sum()
    return int(voxels) * math.prod(checked_spacing(spacing_mm))


def hausdorff95_mm(prediction: Mask, reference: Mask, spacing_mm: Spacing) -> float:
    """Larger directed 95th percentile of contour distances; NaN where a mask is empty."""
    return _surface(prediction, reference, spacing_mm, "hausdorff95_mm")


def average_symmetric_surface_distance_mm(
    prediction: Mask, reference: Mask, spacing_mm: Spacing
) -> float:
    """Mean contour distance over both contours; NaN where a mask is empty."""
    return _surface(prediction, reference, spacing_mm, "average_symmetric_surface_distance_mm")


def _surface(prediction: Mask, reference: Mask, spacing_mm: Spacing, name: str) -> float:
    value = score_case(prediction, reference, spacing_mm).surface[name]
    return math.nan if value is None else value
