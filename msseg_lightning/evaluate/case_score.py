"""Options and results of scoring one case."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

REFERENCE_VERSION = re.compile(r"consensus|adjudicated|(without_)?rater[1-9]\d*")
"""Names of versions of references."""


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """Thresholds of the official tool; the defaults are the tool's.

    Args:
        min_lesion_volume_mm3: components must be strictly larger than this to be lesions, >= 0.
        alpha: share of a lesion that must be exceeded by its covered part, in (0, 1].
        beta: largest share of a covering lesion outside all lesions, in (0, 1].
        gamma: share of the covered part that must be explained, in (0, 1].
        reference: version of the references: ``consensus``, ``rater1``, ..., ``without_rater1``,
            ... (majority of the other raters) or ``adjudicated``.

    Raises:
        MssegError: a value outside its range.
    """

    min_lesion_volume_mm3: float = 3.0
    alpha: float = 0.10
    beta: float = 0.70
    gamma: float = 0.65
    reference: str = "consensus"

    def __post_init__(self) -> None:
        problems = [
            Problem(
                "evaluate.option",
                f"{name} lies outside its range",
                field=name,
                found=str(getattr(self, name)),
                expected="in (0, 1]",
                remedy="leave it at the default to compare with published figures",
                exit_code=ExitCode.CONFIG,
            )
            for name in ("alpha", "beta", "gamma")
            if not 0 < getattr(self, name) <= 1
        ]
        if not 0 <= self.min_lesion_volume_mm3 < math.inf:
            problems.append(
                Problem(
                    "evaluate.option",
                    "the smallest lesion volume lies outside its range",
                    field="min_lesion_volume_mm3",
                    found=str(self.min_lesion_volume_mm3),
                    expected=">= 0 and finite",
                    remedy="the challenge's value is 3",
                    exit_code=ExitCode.CONFIG,
                )
            )
        if not REFERENCE_VERSION.fullmatch(str(self.reference)):
            problems.append(
                Problem(
                    "evaluate.option",
                    "there is no such version of references",
                    field="reference",
                    found=str(self.reference),
                    expected="consensus, rater1, without_rater1 or adjudicated",
                    remedy="leave it at consensus to compare with published figures",
                    exit_code=ExitCode.CONFIG,
                )
            )
        if problems:
            raise MssegError(problems)


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One component of a mask.

    Args:
        label: 1 is the largest; equal sizes by first voxel in file order.
        voxels: size.
        volume_mm3: size.
        centre_voxel: mean voxel index, order X, Y, Z.
        box: smallest and one past the largest voxel index along X, Y, Z.
        found: detected (reference) or matched (prediction) by the official rule; never for a
            component that does not count.
        counted: larger than the volume limit, so that it takes part in lesion scores.
        overlap_voxels: shared with the other mask, whatever the rule says.
        contrast: mean of the follow-up scan inside over that around; None if not recorded.
        region: of the brain, see ``lesion_regions``; None if not recorded.
    """

    label: int
    voxels: int
    volume_mm3: float
    centre_voxel: tuple[float, float, float]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    found: bool
    counted: bool
    overlap_voxels: int
    contrast: float | None = None
    region: str | None = None


@dataclasses.dataclass(frozen=True)
class CaseScore:
    """Scores of one case; None where a measure is undefined.

    Args:
        official: the tool's measures by its names, ``Jaccard`` .. ``F1_score``, or only
            ``NbTestedLesions`` and ``VolTestedLesions`` where the reference is empty.
        dice: Dice under the conventions for empty masks found in the papers, see ``score_case``.
        surface: ``average_symmetric_surface_distance_mm`` and ``hausdorff95_mm`` between contours;
            None where one mask is empty.
        detection: ``n_ref``, ``n_test``, ``tp_ref``, ``tp_test`` (lesions and how many are
            detected or matched), ``LTPR`` and ``LFPR`` (shares of lesions that share, of predicted
            lesions that do not share, any voxel with the other mask).
        reference_volume_mm3: whole mask, without volume limit.
        predicted_volume_mm3: whole mask, without volume limit.
        reference_lesions: components of the reference.
        predicted_lesions: components of the prediction.
        overlaps: label in the reference, label in the prediction, shared voxels; counted ones only.
        spacing_mm: as scored (rounded to what a NIfTI header can hold).
        reference_hash: 16 hex digits of shape and voxels of the reference.
        notes: what a reader of the scores must know.
        activity: ``probability_volume_mm3``, the sum of all probabilities times the volume of a
            voxel; None of a system without maps, absent from scores of earlier versions.
    """

    official: dict[str, float | None]
    dice: dict[str, float | None]
    surface: dict[str, float | None]
    detection: dict[str, float | None]
    reference_volume_mm3: float
    predicted_volume_mm3: float
    reference_lesions: tuple[Lesion, ...]
    predicted_lesions: tuple[Lesion, ...]
    overlaps: tuple[tuple[int, int, int], ...]
    spacing_mm: tuple[float, float, float]
    reference_hash: str = ""
    notes: tuple[str, ...] = ()
    activity: dict[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def has_new_lesions(self) -> bool:
        """Whether the reference is not empty."""
        return "Dice" in self.official

    def as_dict(self) -> dict[str, Any]:
        """The scores as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> CaseScore:
        """The scores from the values of ``as_dict``."""
        lesions = {
            name: tuple(
                Lesion(
                    **{
                        **lesion,
                        "centre_voxel": tuple(lesion["centre_voxel"]),
                        "box": tuple(tuple(edge) for edge in lesion["box"]),
                    }
                )
                for lesion in row[name]
            )
            for name in ("reference_lesions", "predicted_lesions")
        }
        plain = {
            "overlaps": tuple(tuple(overlap) for overlap in row["overlaps"]),
            "spacing_mm": tuple(row["spacing_mm"]),
            "notes": tuple(row["notes"]),
        }
        return cls(**{**row, **lesions, **plain})
