"""All scores of one case: the official measures, further measures and a list of lesions.

The measures in ``CaseScore.official`` carry the names of the challenge's animaSegPerfAnalyzer and
agree with it (version 4.2, the one of the challenge) digit for digit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.evaluate.case_score import CaseScore, Lesion, ScoreOptions
from msseg_lightning.evaluate.foreground_runs import (
    Components,
    ForegroundRuns,
    Indices,
    content_hash,
    find_runs,
)
from msseg_lightning.evaluate.lesion_matching import (
    LesionMatch,
    match_lesions,
    minimum_voxels,
)
from msseg_lightning.evaluate.surface import SurfaceDistances, surface_distances

_EMPTY_REFERENCE_LIMIT_MM3 = 3.0  # the tool ignores its own option for an empty reference


def score_case(
    prediction: NDArray[np.generic],
    reference: NDArray[np.generic],
    spacing_mm: tuple[float, float, float],
    options: ScoreOptions | None = None,
    distances: bool = True,
) -> CaseScore:
    """Score one predicted mask against its reference.

    Conventions of ``CaseScore.dice`` (papers disagree, and their tables are not comparable):

    * ``undefined_without_reference``: no value where the reference is empty (S18, S26, official).
    * ``one_if_both_empty``: 1 if both are empty, 0 for any false voxel (S12, S13).
    * ``zero_without_reference``: 0 wherever the reference is empty.
    * ``modified``: ``(2 TP + s) / (P + G + s)``, s = 1e-6 (S01).

    As in the official tool a mask of ones only counts as empty (its labels are ranked per image);
    this is noted. The reader of files refuses such masks.

    Args:
        prediction: (X, Y, Z) bool or integer, non-zero is lesion.
        reference: same shape; non-zero is lesion.
        spacing_mm: edge lengths of a voxel, order X, Y, Z; rounded to float32, as headers are.
        options: thresholds of the lesion scores.
        distances: compute distances of surfaces, the longest part; else they are None.

    Raises:
        MssegError: shapes differ, the arrays are no masks, or the spacing is not positive.
    """
    options = options or ScoreOptions()
    spacing = checked_spacing(spacing_mm)
    predicted, true, notes = checked_runs(prediction, reference)
    voxel_mm3 = (spacing[0] * spacing[1]) * spacing[2]  # the tool's order of multiplication
    match = match_lesions(
        predicted,
        true,
        minimum_voxels(options.min_lesion_volume_mm3, voxel_mm3),
        options.alpha,
        options.beta,
        options.gamma,
    )
    between = (
        surface_distances(predicted, true, spacing)
        if distances and predicted.components and true.components
        else None
    )
    return CaseScore(
        official=_official(predicted, true, voxel_mm3, match, between),
        dice=_dice_conventions(predicted.total, true.total, _shared(match)),
        surface={
            "average_symmetric_surface_distance_mm": _distance(between, "average_symmetric_mm"),
            "hausdorff95_mm": _distance(between, "hausdorff95_mm"),
        },
        detection=_detection(match),
        reference_volume_mm3=true.total * voxel_mm3,
        predicted_volume_mm3=predicted.total * voxel_mm3,
        reference_lesions=_lesions(
            match.reference, match.reference_found, match.reference_overlap, voxel_mm3
        ),
        predicted_lesions=_lesions(
            match.prediction, match.prediction_found, match.prediction_overlap, voxel_mm3
        ),
        overlaps=tuple((i + 1, j + 1, voxels) for i, j, voxels in match.pairs.tolist()),
        spacing_mm=spacing,
        reference_hash=content_hash(true),
        notes=notes,
    )


def checked_spacing(spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """The spacing rounded to float32, as a NIfTI header stores it."""
    values = tuple(float(np.float32(value)) for value in spacing_mm)
    if len(values) != 3 or not all(0 < value < np.inf for value in values):
        raise MssegError(
            Problem(
                "evaluate.spacing",
                "voxel edges must be three positive lengths",
                field="spacing_mm",
                found=str(tuple(spacing_mm)),
                expected="three values above 0 mm",
                remedy="take them from the header of the reference",
            )
        )
    return values[0], values[1], values[2]


def checked_runs(
    prediction: NDArray[np.generic], reference: NDArray[np.generic]
) -> tuple[ForegroundRuns, ForegroundRuns, tuple[str, ...]]:
    """ForegroundRuns of both masks in one layout, with the tool's treatment of constant masks."""
    if np.shape(prediction) != np.shape(reference):
        raise MssegError(
            Problem(
                "evaluate.shape",
                "prediction and reference do not lie on one grid",
                field="shape",
                found=str(np.shape(prediction)),
                expected=str(np.shape(reference)),
                remedy="predict on the native grid, or restore the mask to it, before scoring",
            )
        )
    true = find_runs(reference)
    predicted = find_runs(prediction, x_fastest=true.x_fastest)
    notes = []
    for name, runs in (("prediction", predicted), ("reference", true)):
        if runs.total == runs.voxels.size:
            notes.append(f"the {name} is a mask of ones only; counted as empty, as the tool does")
    return _without_constant(predicted), _without_constant(true), tuple(notes)


def _without_constant(runs: ForegroundRuns) -> ForegroundRuns:
    if runs.total < runs.voxels.size:
        return runs
    return find_runs(np.zeros(runs.shape, np.uint8), x_fastest=runs.x_fastest)


def _shared(match: LesionMatch) -> int:
    """Number of voxels in both masks."""
    return int(match.reference_overlap.sum())


def _official(
    predicted: ForegroundRuns,
    true: ForegroundRuns,
    voxel_mm3: float,
    match: LesionMatch,
    distances: SurfaceDistances | None,
) -> dict[str, float | None]:
    """The measures of the official tool, by its names."""
    sizes = match.prediction.voxels
    if not true.components:
        kept = sizes[sizes >= minimum_voxels(_EMPTY_REFERENCE_LIMIT_MM3, voxel_mm3)]
        return {
            "NbTestedLesions": float(kept.size),
            "VolTestedLesions": int(kept.sum()) * voxel_mm3,
        }
    tp = _shared(match)
    fp, fn = predicted.total - tp, true.total - tp
    tn = true.voxels.size - tp - fp - fn
    jaccard = tp / (tp + fp + fn)
    return {
        "Jaccard": jaccard,
        "Dice": 2 * jaccard / (1 + jaccard),
        "Sensitivity": tp / (tp + fn),
        "Specificity": _ratio(tn, tn + fp),
        "PPV": _ratio(tp, tp + fp),
        "NPV": _ratio(tn, tn + fn),
        "RelativeVolumeError": 100 * (predicted.total - true.total) / true.total,
        "HausdorffDistance": _distance(distances, "hausdorff_mm"),
        "ContourMeanDistance": _distance(distances, "contour_mean_mm"),
        "SurfaceDistance": _distance(distances, "running_minimum_mm"),
        "PPVL": match.precision,
        "SensL": match.sensitivity,
        "F1_score": match.f1,
    }


def _distance(distances: SurfaceDistances | None, name: str) -> float | None:
    """One distance, or None where a mask is empty."""
    return None if distances is None else float(getattr(distances, name))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _dice_conventions(predicted: int, true: int, shared: int) -> dict[str, float | None]:
    """Dice under several conventions for an empty reference; equal where there is one (to 1e-6)."""
    plain = 2 * shared / (predicted + true) if true else None
    smooth = 1e-6
    return {
        "undefined_without_reference": plain,
        "one_if_both_empty": plain if plain is not None else float(predicted == 0),
        "zero_without_reference": plain or 0.0,
        "modified": (2 * shared + smooth) / (predicted + true + smooth),
    }


def _detection(match: LesionMatch) -> dict[str, float | None]:
    true, predicted = match.reference_counted, match.prediction_counted
    return {
        "n_ref": true,
        "n_test": predicted,
        "tp_ref": int(match.reference_found.sum()),
        "tp_test": int(match.prediction_found.sum()),
        "LTPR": _ratio(int((match.reference_overlap[:true] > 0).sum()), true),
        "LFPR": _ratio(int((match.prediction_overlap[:predicted] == 0).sum()), predicted),
    }


def _lesions(
    components: Components, found: np.ndarray, overlap: Indices, voxel_mm3: float
) -> tuple[Lesion, ...]:
    flags = found.tolist()
    rows = zip(
        components.voxels.tolist(),
        components.centre.tolist(),
        components.low.tolist(),
        (components.high + 1).tolist(),
        overlap.tolist(),
        strict=True,
    )
    return tuple(
        Lesion(
            label=number + 1,
            voxels=voxels,
            volume_mm3=voxels * voxel_mm3,
            centre_voxel=(centre[0], centre[1], centre[2]),
            box=((low[0], high[0]), (low[1], high[1]), (low[2], high[2])),
            found=number < len(flags) and flags[number],
            counted=number < len(flags),
            overlap_voxels=shared,
        )
        for number, (voxels, centre, low, high, shared) in enumerate(rows)
    )
