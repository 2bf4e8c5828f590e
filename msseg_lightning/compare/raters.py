"""Raters among the systems: each scored against the majority of the other raters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from msseg_lightning.compare.statistics import Comparison, Measurement, compare_systems
from msseg_lightning.compare.systems import System
from msseg_lightning.run.predict.rater_scores import CONSENSUS, OTHERS, merged

_DRAWS = (2000, 2000)
"""Bootstrap samples and sign changes; of raters means and intervals are shown."""


@dataclasses.dataclass(frozen=True)
class Band:
    """Scores of all raters by one measure.

    Args:
        low: of the rater with the smallest mean.
        mean: over raters.
        high: of the rater with the largest mean.
        raters: how many.
    """

    low: float
    mean: float
    high: float
    raters: int


@dataclasses.dataclass(frozen=True)
class Raters:
    """Scores of the raters of the patients that systems are compared on.

    Args:
        others: measure -> raters against the majority of the others, on the patients where the
            measure has a value for every rater and reference.
        consensus: measure -> rater -> mean against the consensus, to which the rater has
            contributed; on the same patients.
        recorded: pairs of which raters' scores are stored.
        pairs: of the comparison.
    """

    others: Mapping[str, Comparison]
    consensus: Mapping[str, Mapping[str, float]]
    recorded: int
    pairs: int

    def band(self, measure: str) -> Band | None:
        """Smallest, mean and largest score by a measure; None where it has no value."""
        found = self.others.get(measure)
        if found is None:
            return None
        means = [one.mean for one in found.systems]
        return Band(min(means), sum(means) / len(means), max(means), len(means))


def read_raters(systems: Sequence[System], measures: Mapping[str, tuple[str, bool]]) -> Raters:
    """Compare the raters of the pairs of systems.

    Bands are made only if the raters of every pair are recorded: other patients give other scores.

    Args:
        systems: on the same pairs.
        measures: name -> official name of a measure, and whether larger is better.
    """
    pairs, patients = systems[0].pairs, systems[0].patients
    every = merged(one.raters for one in systems)
    scores = {
        rater: {pair: rows[pair] for pair in sorted(pairs) if pair in rows}
        for rater, rows in sorted(every.items())
    }
    known = set.intersection(*map(set, scores.values())) if scores else set()
    others: dict[str, Comparison] = {}
    consensus: dict[str, Mapping[str, float]] = {}
    for name, (official, larger_is_better) in measures.items() if known == pairs else ():
        defined = [pair for pair in sorted(pairs) if _defined(scores, pair, official)]
        if not defined:
            continue
        against: dict[str, list[Measurement]] = {
            version: [
                Measurement(rater, patients[pair], 0, float(rows[pair][version][official]))
                for rater, rows in scores.items()
                for pair in defined
            ]
            for version in (OTHERS, CONSENSUS)
        }
        others[name] = compare_systems(against[OTHERS], larger_is_better, 0, *_DRAWS)
        naive = compare_systems(against[CONSENSUS], larger_is_better, 0, *_DRAWS)
        consensus[name] = {one.system: one.mean for one in naive.systems}
    return Raters(others, consensus, len(known), len(pairs))


def _defined(scores: Mapping[str, Mapping[str, Any]], pair: str, official: str) -> bool:
    """Whether a measure of a pair has a value for every rater and version."""
    return all(
        rows[pair][version].get(official) is not None
        for rows in scores.values()
        for version in (OTHERS, CONSENSUS)
    )
