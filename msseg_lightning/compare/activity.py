"""Patient-level activity: do scores tell patients with new lesions from patients without?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from msseg_lightning.compare.statistics import LEVEL
from msseg_lightning.compare.systems import System
from msseg_lightning.evaluate.case_score import CaseScore

Values = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ActivityRoc:
    """Receiver operating characteristic of one score of activity.

    Args:
        area: under the curve: how often a patient with new lesions has the higher score than one
            without; ties count one half.
        interval: 95 % of it, by Newcombe's method 5, which does not collapse at 0 and 1.
        false_alarms: share of patients without new lesions at or above each score, ascending.
        found: share of patients with new lesions there.
    """

    area: float
    interval: tuple[float, float]
    false_alarms: tuple[float, ...]
    found: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Activity:
    """How well a system tells patients with new lesions from those without.

    Args:
        rocs: name of a score -> curve; None where it is not recorded for every pair.
        active_marked: patients with new lesions for whom a lesion is predicted, mean over seeds.
        active: patients with new lesions.
        inactive_marked: the same of patients without.
        inactive: patients without.
    """

    rocs: Mapping[str, ActivityRoc | None]
    active_marked: float
    active: int
    inactive_marked: float
    inactive: int


def _predicted_volume(score: CaseScore) -> float | None:
    return sum(lesion.volume_mm3 for lesion in score.predicted_lesions if lesion.counted)


def _probability_volume(score: CaseScore) -> float | None:
    return score.activity.get("probability_volume_mm3")


SCORES: Mapping[str, Callable[[CaseScore], float | None]] = {
    "predicted volume": _predicted_volume,
    "sum of probabilities": _probability_volume,
}
"""Name -> how active a pair looks; None where it is not recorded."""


def activity_of(system: System) -> Activity | None:
    """Activity by every score; None unless there are patients with and without new lesions.

    A patient counts once in each group, by the mean over its pairs and then over seeds.
    """
    marked = _by_patient(system, lambda score: float(bool(score.detection["n_test"])))
    if marked is None or not all(len(group) for group in marked):
        return None
    rocs = {}
    for name, value in SCORES.items():
        groups = _by_patient(system, value)
        rocs[name] = None if groups is None else activity_roc(*groups)
    active, inactive = marked
    return Activity(rocs, float(active.sum()), len(active), float(inactive.sum()), len(inactive))


def _by_patient(
    system: System, value: Callable[[CaseScore], float | None]
) -> tuple[Values, Values] | None:
    """Means of the patients with and without new lesions; None if a pair has no value."""
    found: dict[bool, dict[str, list[list[float]]]] = {True: {}, False: {}}
    for number, cases in enumerate(system.seeds.values()):
        for pair, score in cases.items():
            one = value(score)
            if one is None:
                return None
            seeds = found[score.has_new_lesions].setdefault(
                system.patients[pair], [[] for _ in system.seeds]
            )
            seeds[number].append(one)
    active, inactive = (
        np.array([np.mean([np.mean(seed) for seed in seeds]) for seeds in found[group].values()])
        for group in (True, False)
    )
    return active, inactive


def activity_roc(active: Values, inactive: Values) -> ActivityRoc:
    """Curve and area of the scores of two groups, of which neither is empty."""
    levels = np.unique(np.concatenate([active, inactive]))[::-1]
    found = [float((active >= level).mean()) for level in levels]
    false = [float((inactive >= level).mean()) for level in levels]
    ranks = stats.rankdata(np.concatenate([active, inactive]))[: len(active)]
    count = len(active) * len(inactive)
    area = float((ranks.sum() - len(active) * (len(active) + 1) / 2) / count)
    return ActivityRoc(
        area, area_interval(area, len(active), len(inactive)), (0.0, *false), (0.0, *found)
    )


def area_interval(area: float, active: int, inactive: int) -> tuple[float, float]:
    """Interval of an area under the curve, of so many patients of both groups.

    Newcombe 2006, https://doi.org/10.1002/sim.2324, method 5: the areas whose distance from the
    estimate is the normal quantile times their own standard error, by Hanley and McNeil's formula
    with the mean of the groups' sizes in its numerator.
    """
    quantile = float(stats.norm.isf(LEVEL / 2))
    half = (active + inactive) / 2 - 1

    def error(true: float) -> float:
        spread = true * (1 - true) / (active * inactive)
        return math.sqrt(spread * (1 + half * ((1 - true) / (2 - true) + true / (1 + true))))

    def end(sign: int, edge: float) -> float:
        def distance(true: float) -> float:
            return sign * (true - area) - quantile * error(true)

        near = area + sign * 1e-12  # the estimate itself is a root where the error is 0
        return edge if area == edge else float(optimize.brentq(distance, near, edge))

    return end(-1, 0.0), end(1, 1.0)
