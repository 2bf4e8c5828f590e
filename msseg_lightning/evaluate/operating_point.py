"""Operating point: which predicted lesions are kept, chosen under a budget of false lesions.

A point has a threshold of the probability, a smallest lesion and a least lesion score. Its false
lesions per patient are tested on patients that the system was not fitted on, and an upper
confidence limit of them, not their mean, is compared with the budget:

1. Threshold and smallest lesion are chosen on other patients than those the limit is computed of:
   for a budget on patients without new lesions, on those with; for a budget on all patients, on
   every third patient.
2. The least score is lowered from the strictest value on, as long as the upper limit stays within
   the budget. The rate of false lesions never rises with the least score, so the rate of the point
   stays within the budget with the stated confidence, however many values were tried (Bates et al.
   2021, theorem 1; Angelopoulos et al. 2021, fixed sequences).

The limit is the exact one of a Poisson count, widened where false lesions gather in few patients:
with X lesions the variance is taken as ``1 + r (X + 1)`` times the mean, where ``r`` (of a negative
binomial count) is the largest found at this or any lower least score.

Reference:
    Bates et al. 2021, https://arxiv.org/abs/2101.02703; Angelopoulos et al. 2021, Learn then Test,
    https://arxiv.org/abs/2110.01052.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.wording import counted
from msseg_lightning.evaluate.case_score import CaseScore

Values = NDArray[np.float64]

Population = Literal["without", "all"]
"""Patients of a budget: those without new lesions, or all."""

TooFew = Literal["strictest", "refuse"]
"""What is done where the patients are too few for a budget."""

LEVELS = 1000
"""Least scores that are tried at most."""


@dataclasses.dataclass(frozen=True)
class Marks:
    """Predicted lesions of one pair of scans.

    Args:
        patient: pairs of one patient are counted together.
        scores: (n,) of the lesions, larger is more certain.
        volumes_mm3: (n,) of them.
        right: (n,) bool, whether each is a true lesion by the rule of matching.
        lesions: number of true lesions of the pair; 0 is a pair without new lesions.
        finds: (k, 2) predicted lesion and the true lesion that it finds, counted from 0.
    """

    patient: str
    scores: Values
    volumes_mm3: Values
    right: NDArray[np.bool_]
    lesions: int
    finds: NDArray[np.int64]

    @classmethod
    def of(cls, patient: str, score: CaseScore, scores: Sequence[float] | Values) -> Marks:
        """The lesions of a scored mask that are larger than the volume limit of the scores.

        Args:
            patient: whose mask it is.
            score: of the mask.
            scores: of its lesions that count, in order of size.
        """
        counted = [one for one in score.predicted_lesions if one.counted]
        true = [one.found for one in score.reference_lesions if one.counted]
        right = np.array([one.found for one in counted], bool)
        pairs = [
            (mark - 1, lesion - 1)
            for lesion, mark, _ in score.overlaps
            if true[lesion - 1] and right[mark - 1]
        ]
        return cls(
            patient,
            np.asarray(scores, np.float64),
            np.array([one.volume_mm3 for one in counted], np.float64),
            right,
            len(true),
            np.array(pairs, np.int64).reshape(-1, 2),
        )


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Which predicted lesions are kept, and what is known of their number of false ones.

    Args:
        threshold: of the probability; None leaves the system's own.
        smallest_mm3: smaller lesions are dropped.
        least_score: lesions with a smaller score are dropped.
        budget: false lesions per patient that were allowed.
        confidence: of the upper limit, in (0, 1).
        population: of whom the budget speaks.
        certified: the upper limit lies within the budget.
        false_per_patient: mean of the patients that the limit was computed of.
        upper_limit: of the mean of all patients of the population.
        sensitivity: found share of the true lesions of all patients; None without true lesions.
        patients: number that the limit was computed of.
        patients_needed: number that can certify the budget where none of them has a false lesion.
    """

    threshold: float | None
    smallest_mm3: float
    least_score: float
    budget: float
    confidence: float
    population: Population
    certified: bool
    false_per_patient: float
    upper_limit: float
    sensitivity: float | None
    patients: int
    patients_needed: int

    def as_dict(self) -> dict[str, Any]:
        """The point as JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """The point and what is known of it, in one line."""
        whose = "patient" if self.population == "all" else "patient without new lesions"
        budget = f"{self.budget:g} false lesions per {whose} with {self.confidence:.0%} confidence"
        rules = [
            *([] if self.threshold is None else [f"probability above {self.threshold:g}"]),
            *([f"lesions of at least {self.smallest_mm3:g} mm3"] if self.smallest_mm3 else []),
            f"lesion score of at least {self.least_score:.4g}",
        ]
        known = (
            f"at most {budget} (limit {self.upper_limit:.3g})"
            if self.certified
            else f"NOT CERTIFIED: {counted(self.patients, 'patient')} cannot show at most {budget} "
            f"(limit {self.upper_limit:.3g}; at least {self.patients_needed} are needed)"
        )
        return f"{', '.join(rules)}: {known}"


def choose_operating_point(
    marks: Sequence[Marks] | Mapping[float | None, Sequence[Marks]],
    budget: float,
    confidence: float = 0.9,
    population: Population = "without",
    smallest_mm3: Sequence[float] = (0.0,),
    too_few: TooFew = "strictest",
) -> OperatingPoint:
    """Choose the point that finds most lesions among those whose upper limit is within a budget.

    Args:
        marks: of every pair, predicted by systems that were not fitted on its patient; for several
            thresholds by threshold, with the same pairs in the same order.
        budget: allowed false lesions per patient, larger than 0.
        confidence: with which patients of the same kind have no more, in (0, 1).
        population: of whom the budget speaks.
        smallest_mm3: volumes that are tried.
        too_few: ``strictest``: where no point can be certified, the one without a false lesion in
            the patients that are there; ``refuse``: raise an error.

    Raises:
        MssegError: budget or confidence is out of its range, there is no patient of the population,
            no point can be certified and ``too_few`` is ``refuse``, or the point finds no lesion
            (exit 2).
    """
    _refuse_range(budget, confidence)
    by_threshold: dict[float | None, Sequence[Marks]] = (
        dict(marks) if isinstance(marks, Mapping) else {None: marks}
    )
    paths = list(itertools.product(by_threshold, smallest_mm3))
    pairs = next(iter(by_threshold.values()))
    tested, others = _groups(pairs, population, len(paths) > 1)
    if not tested.any():
        raise _no_patients(population)
    threshold, smallest = paths[0]
    if others.any():
        yields = [
            _mean_sensitivity(_Path(by_threshold[path[0]], path[1]), others, budget)
            for path in paths
        ]
        threshold, smallest = paths[int(np.argmax(yields))]
    path = _Path(by_threshold[threshold], smallest)
    limits, means = path.upper_limits(tested, confidence)
    found = path.found()
    allowed = int(np.argmax(limits > budget)) if (limits > budget).any() else len(limits)
    certified = allowed > 0
    if not certified:
        if too_few == "refuse":
            raise _too_few(path.patients(tested), budget, confidence, population)
        allowed = int((means == 0).sum())
    # the first of equal ones is the strictest
    level = int(np.argmax(found[:allowed])) if path.lesions else allowed - 1
    if not found[level] and path.lesions:
        raise _nothing_found(budget, population)
    return OperatingPoint(
        threshold=threshold,
        smallest_mm3=float(smallest),
        least_score=_below(path.levels, level),
        budget=budget,
        confidence=confidence,
        population=population,
        certified=certified,
        false_per_patient=float(means[level]),
        upper_limit=float(limits[level]),
        sensitivity=float(found[level] / path.lesions) if path.lesions else None,
        patients=path.patients(tested),
        patients_needed=patients_needed(budget, confidence),
    )


def patients_needed(budget: float, confidence: float) -> int:
    """Patients that can certify a budget where none of them has a false lesion."""
    return math.ceil(-math.log1p(-confidence) / budget)


def poisson_upper_limit(
    events: Values, exposure: float, confidence: float, dispersion: Values | float = 1.0
) -> Values:
    """Exact one-sided upper confidence limit of a rate.

    Args:
        events: counted.
        exposure: patients that they were counted in.
        confidence: of the limit, in (0, 1).
        dispersion: variance over mean of the count, at least 1; then the limit is that of
            ``events / dispersion`` events of ``dispersion`` lesions each.
    """
    limit: Values = dispersion * special.gammaincinv(events / dispersion + 1, confidence) / exposure
    return limit


class _Path:
    """All least scores of one threshold and one smallest lesion, from the strictest on.

    Args:
        pairs: marks.
        smallest_mm3: smaller ones are left out.
    """

    def __init__(self, pairs: Sequence[Marks], smallest_mm3: float) -> None:
        self.pairs = pairs
        scores = np.concatenate([pair.scores for pair in pairs])
        kept = np.concatenate([pair.volumes_mm3 for pair in pairs]) >= smallest_mm3
        wrong = ~np.concatenate([pair.right for pair in pairs]) & kept
        owner = np.repeat(np.arange(len(pairs)), [len(pair.scores) for pair in pairs])
        self.levels = _levels(scores[kept])
        self.false = self._at_levels(owner[wrong], scores[wrong])
        # of every true lesion the largest score of the kept lesions that find it
        lesions = np.array([pair.lesions for pair in pairs], np.int64)
        first_lesion = np.cumsum(lesions) - lesions
        first_mark = np.searchsorted(owner, np.arange(len(pairs)))
        finds = np.concatenate(
            [
                np.add(np.asarray(pair.finds, np.int64).reshape(-1, 2), (mark, lesion))
                for pair, mark, lesion in zip(pairs, first_mark, first_lesion, strict=True)
            ]
        )
        finds = finds[kept[finds[:, 0]]]
        best = np.full(int(lesions.sum()), -np.inf)
        np.maximum.at(best, finds[:, 1], scores[finds[:, 0]])
        patient = np.repeat(np.arange(len(pairs)), lesions)
        self.lesions = len(best)
        self.finds = self._at_levels(patient[best > -np.inf], best[best > -np.inf])

    def _at_levels(self, owner: NDArray[np.int64], scores: Values) -> Values:
        """(pairs, levels) number of scores of a pair at or above every level."""
        ascending = self.levels[::-1]
        first = len(self.levels) - np.searchsorted(ascending, scores, side="right")
        counts = np.zeros((len(self.pairs), len(self.levels) + 1))
        np.add.at(counts, (owner, first), 1)
        found: Values = counts[:, :-1].cumsum(axis=1)
        return found

    def found(self, among: NDArray[np.bool_] | None = None) -> Values:
        """(levels,) true lesions of all or some pairs that are found at every level."""
        found: Values = (self.finds if among is None else self.finds[among]).sum(0)
        return found

    def patients(self, among: NDArray[np.bool_]) -> int:
        """Number of patients of some pairs."""
        return len({pair.patient for pair, one in zip(self.pairs, among, strict=True) if one})

    def upper_limits(self, among: NDArray[np.bool_], confidence: float) -> tuple[Values, Values]:
        """(levels,) upper limit and mean of the false lesions per pair of some pairs."""
        names = [pair.patient for pair, one in zip(self.pairs, among, strict=True) if one]
        _, owner = np.unique(names, return_inverse=True)
        pairs = np.bincount(owner).astype(np.float64)  # of every patient
        counts = np.zeros((len(pairs), len(self.levels)))
        np.add.at(counts, owner, self.false[among])
        events, exposure = counts.sum(0), float(pairs.sum())
        expected = pairs[:, None] * events / exposure
        with np.errstate(invalid="ignore", divide="ignore"):
            pearson = ((counts - expected) ** 2 / expected).sum(0) / max(len(pairs) - 1, 1)
            ratio = np.where(events > 0, (pearson - 1) / events, 0.0)
        ratio = np.maximum.accumulate(np.maximum(ratio, 0)[::-1])[::-1]  # of looser levels as well
        dispersion = 1 + ratio * (events + 1)
        return poisson_upper_limit(events, exposure, confidence, dispersion), events / exposure


def _levels(scores: Values) -> Values:
    """Least scores, descending; the first is above all scores, the last the smallest of them."""
    distinct = np.unique(scores)
    if len(distinct) > LEVELS:
        distinct = np.unique(np.quantile(distinct, np.linspace(0, 1, LEVELS), method="lower"))
    above = np.nextafter(distinct[-1], np.inf) if len(distinct) else 0.0
    return np.concatenate(([above], distinct[::-1]))


def _below(levels: Values, level: int) -> float:
    """A value just below a level, above the next: it is not missed by a rounding error."""
    value = float(levels[level])
    gap = value - float(levels[level + 1]) if level + 1 < len(levels) else abs(value)
    return value - min(gap / 2, 1e-6)


def _groups(
    pairs: Sequence[Marks], population: Population, several: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pairs of which the limit is computed, and pairs on which one of several paths is chosen."""
    if population == "without":
        without = np.array([pair.lesions == 0 for pair in pairs], bool)
        return without, ~without
    every = np.ones(len(pairs), bool)
    if not several:
        return every, ~every
    third = set(sorted({pair.patient for pair in pairs})[2::3])
    others = np.array([pair.patient in third for pair in pairs], bool)
    return ~others, others


def _mean_sensitivity(path: _Path, among: NDArray[np.bool_], budget: float) -> float:
    """Mean sensitivity of some pairs at 1, 2 and 4 budgets of false lesions per pair."""
    lesions = sum(pair.lesions for pair, one in zip(path.pairs, among, strict=True) if one)
    share = path.found(among) / max(lesions, 1)
    false = path.false[among].sum(0) / max(int(among.sum()), 1)
    return float(np.mean([share[false <= budget * times].max() for times in (1, 2, 4)]))


def _refuse_range(budget: float, confidence: float) -> None:
    wrong = [
        Problem(
            "point.range",
            f"the {name} lies outside its range",
            field=name,
            found=str(value),
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
        for name, value, within, expected, remedy in (
            ("budget", budget, 0 < budget < math.inf, "> 0", "--false-lesions 0.5"),
            ("confidence", confidence, 0 < confidence < 1, "in (0, 1)", "--confidence 0.9"),
        )
        if not within
    ]
    if wrong:
        raise MssegError(wrong)


def _no_patients(population: Population) -> MssegError:
    return MssegError(
        Problem(
            "point.no_patients",
            "no point can be chosen: there is no patient of whom the budget speaks",
            field="population",
            found="no patient without new lesions" if population == "without" else "no patient",
            expected="predicted patients with a reference",
            remedy="--population all counts the false lesions of all patients",
            exit_code=ExitCode.CONFIG,
        )
    )


def _too_few(patients: int, budget: float, confidence: float, population: Population) -> MssegError:
    whose = "patients without new lesions" if population == "without" else "patients"
    return MssegError(
        Problem(
            "point.too_few",
            "the patients are too few to certify this budget",
            field="budget",
            found=f"{patients} {whose} for {budget:g} false lesions with {confidence:.0%} "
            "confidence",
            expected=f"at least {patients_needed(budget, confidence)} {whose}, none of them with a "
            "false lesion",
            remedy=f"a larger budget (--false-lesions "
            f"{math.ceil(-1000 * math.log1p(-confidence) / patients) / 1000:g} or more), more "
            "patients, or --too-few strictest for a point that is not certified",
            exit_code=ExitCode.CONFIG,
        )
    )


def _nothing_found(budget: float, population: Population) -> MssegError:
    return MssegError(
        Problem(
            "point.finds_nothing",
            "no point within this budget finds a lesion",
            field="budget",
            found=f"{budget:g} false lesions per patient"
            + (" without new lesions" if population == "without" else ""),
            expected="a point that finds at least one lesion",
            remedy="a larger budget: --false-lesions NUMBER; the system's own rules stay in use",
            exit_code=ExitCode.CONFIG,
        )
    )
