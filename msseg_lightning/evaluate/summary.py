"""Summary of many cases, separately for cases with and without new lesions.

Cases with new lesions have overlap, distance and detection scores; cases without have only the
number and volume of false lesions. Papers that averaged both (an empty prediction on an empty case
counting 1) are not comparable; ``dice_as_published`` reproduces their averages on request.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.evaluate.case_score import CaseScore

Values = NDArray[np.float64]

SIZE_EDGES_MM3 = (0.0, 10.0, 30.0, 100.0, float("inf"))
"""Edges of the bins of lesion sizes; the first is the volume limit of the scores."""

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Statistic:
    """Statistics of one measure in one group; None where there are too few cases.

    Args:
        n: cases in which the measure has a value; only these are summarised.
        undefined: cases of the group in which it has none.
        mean: of n >= 1 cases.
        sd: sample standard deviation (n - 1), of n >= 2 cases.
        median: of n >= 1 cases.
        quartile1: lower quartile, interpolated linearly.
        quartile3: upper quartile.
        interval: bootstrap 95 % interval of the mean, of n >= 2 cases.
    """

    n: int
    undefined: int
    mean: float | None
    sd: float | None
    median: float | None
    quartile1: float | None
    quartile3: float | None
    interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class LesionCounts:
    """Lesion counts pooled over cases, so that patients with many lesions weigh more.

    Intervals are bootstrap 95 % intervals that resample whole cases, not lesions: lesions of one
    patient are found or missed together.

    Args:
        low_mm3: only lesions larger than this.
        high_mm3: and up to this; None without bound.
        true: lesions of the references.
        detected: those of them that were detected.
        predicted: lesions of the predictions.
        matched: those of them that were right.
        sensitivity: detected / true.
        precision: matched / predicted.
        f1: harmonic mean of both.
        sensitivity_interval: of the sensitivity.
        precision_interval: of the precision.
        f1_interval: of the F1.
    """

    low_mm3: float
    high_mm3: float | None
    true: int
    detected: int
    predicted: int
    matched: int
    sensitivity: float | None
    precision: float | None
    f1: float | None
    sensitivity_interval: tuple[float, float] | None
    precision_interval: tuple[float, float] | None
    f1_interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class WithLesions:
    """Statistics of cases whose reference contains new lesions.

    Args:
        cases: their ids.
        measures: statistic of each measure.
        lesions: pooled counts.
        by_size: the same by lesion volume.
    """

    cases: tuple[str, ...]
    measures: Mapping[str, Statistic]
    lesions: LesionCounts
    by_size: tuple[LesionCounts, ...]


@dataclasses.dataclass(frozen=True)
class WithoutLesions:
    """Statistics of cases with an empty reference; predicted lesions above 3 mm3 count as false.

    Args:
        cases: their ids.
        false_lesions: number per case.
        false_volume_mm3: volume per case.
        clean: cases without a false lesion.
        clean_share: their share.
        clean_interval: its bootstrap 95 % interval.
    """

    cases: tuple[str, ...]
    false_lesions: Statistic
    false_volume_mm3: Statistic
    clean: int
    clean_share: float | None
    clean_interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """Statistics of both groups."""

    with_lesions: WithLesions
    without_lesions: WithoutLesions

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return dataclasses.asdict(self)


def summarise(scores: Mapping[str, CaseScore], seed: int = 0) -> Summary:
    """Summarise cases by group.

    Args:
        scores: case id -> scores.
        seed: of the bootstrap; the same cases give the same intervals in any order.
    """
    ordered = dict(sorted(scores.items()))
    with_lesions = {case: score for case, score in ordered.items() if score.has_new_lesions}
    without = {case: score for case, score in ordered.items() if not score.has_new_lesions}
    return Summary(
        with_lesions=WithLesions(
            cases=tuple(with_lesions),
            measures=_measures(list(with_lesions.values()), seed),
            lesions=_count(list(with_lesions.values()), 0.0, float("inf"), seed),
            by_size=tuple(
                _count(list(with_lesions.values()), low, high, seed)
                for low, high in itertools.pairwise(SIZE_EDGES_MM3)
            ),
        ),
        without_lesions=_without(without, seed),
    )


def dice_as_published(scores: Mapping[str, CaseScore], convention: str, seed: int = 0) -> Statistic:
    """Dice over all cases under a paper's convention for empty masks.

    Mixes both groups, so it is only good for comparison with a table that did.

    Args:
        scores: case id -> scores.
        convention: a key of ``CaseScore.dice``, see ``score.score_case``.
        seed: of the bootstrap.
    """
    values = [score.dice[convention] for _, score in sorted(scores.items())]
    return _statistic(values, seed, f"Dice {convention}")


def _measures(scores: Sequence[CaseScore], seed: int) -> dict[str, Statistic]:
    rows = [
        {
            **score.official,
            **score.surface,
            "LTPR": score.detection["LTPR"],
            "LFPR": score.detection["LFPR"],
        }
        for score in scores
    ]
    return {name: _statistic([row[name] for row in rows], seed, name) for name in (rows or [{}])[0]}


def _without(scores: Mapping[str, CaseScore], seed: int) -> WithoutLesions:
    numbers = [score.official["NbTestedLesions"] for score in scores.values()]
    volumes = [score.official["VolTestedLesions"] for score in scores.values()]
    clean = np.array([number == 0 for number in numbers], dtype=np.float64)
    return WithoutLesions(
        cases=tuple(scores),
        false_lesions=_statistic(numbers, seed, "NbTestedLesions"),
        false_volume_mm3=_statistic(volumes, seed, "VolTestedLesions"),
        clean=int(clean.sum()),
        clean_share=float(clean.mean()) if clean.size else None,
        clean_interval=_interval(clean[:, None], lambda means: means[..., 0], seed, "clean"),
    )


def _statistic(values: Sequence[float | None], seed: int, name: str) -> Statistic:
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    n = defined.size
    quartiles = np.percentile(defined, (25, 50, 75)).tolist() if n else [None] * 3
    return Statistic(
        n=n,
        undefined=len(values) - n,
        mean=float(defined.mean()) if n else None,
        sd=float(defined.std(ddof=1)) if n > 1 else None,
        median=quartiles[1],
        quartile1=quartiles[0],
        quartile3=quartiles[2],
        interval=_interval(defined[:, None], lambda means: means[..., 0], seed, name),
    )


def _count(scores: Sequence[CaseScore], low: float, high: float, seed: int) -> LesionCounts:
    """Count the lesions of a range of sizes over all cases."""
    table = np.zeros((len(scores), 4))
    for row, score in zip(table, scores, strict=True):
        for column, lesions in ((0, score.reference_lesions), (2, score.predicted_lesions)):
            for lesion in lesions:
                if lesion.counted and low < lesion.volume_mm3 <= high:
                    row[column] += 1
                    row[column + 1] += lesion.found
    shares = lesion_shares(table.sum(0))
    intervals = [
        _interval(table, function, seed, f"lesions {low:g}")
        for function in (
            lambda means: lesion_shares(means)[0],
            lambda means: lesion_shares(means)[1],
            lambda means: lesion_shares(means)[2],
        )
    ]
    true, detected, predicted, matched = (int(value) for value in table.sum(0))
    values = [None if np.isnan(share) else float(share) for share in shares]
    return LesionCounts(
        low,
        None if high == float("inf") else high,
        true,
        detected,
        predicted,
        matched,
        values[0],
        values[1],
        values[2],
        intervals[0],
        intervals[1],
        intervals[2],
    )


def lesion_shares(counts: Values) -> tuple[Values, Values, Values]:
    """Sensitivity, precision and F1 from (..., 4) counts; NaN where one has no value."""
    true, detected, predicted, matched = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = detected / true
        precision = matched / predicted
        total = sensitivity + precision
        # as in the official score: no prediction at all, or nothing right, is an F1 of 0
        f1 = np.where(total > 0, 2 * sensitivity * precision / total, 0.0)
    return sensitivity, precision, np.where(true > 0, f1, np.nan)


def _interval(
    table: Values, function: Callable[[Values], Values], seed: int, name: str
) -> tuple[float, float] | None:
    """Bootstrap 95 % percentile interval of a function of the column means.

    Args:
        table: (cases, columns).
        function: (resamples, columns) -> (resamples,), NaN where a resample leaves it open.
        seed: of the resampling.
        name: what is resampled; keys the draws.
    """
    cases = table.shape[0]
    if cases < 2:
        return None
    generator = keyed_generator(seed, "evaluate.bootstrap", name)
    drawn = generator.integers(cases, size=(_RESAMPLES, cases))
    values = function(table[drawn].mean(axis=1))
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
