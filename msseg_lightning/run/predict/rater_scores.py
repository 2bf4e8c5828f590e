"""Scores of the raters of a data set, as if each were a system."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.subject_map import map_subjects
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import ScoreOptions, score_case
from msseg_lightning.read.nifti import GateOptions
from msseg_lightning.read.reference import majority, rater_masks, read_reference

log = logging.getLogger(__name__)

OTHERS = "others"
"""Against the majority of the other raters."""
CONSENSUS = "consensus"
"""Against the consensus, to which the rater has contributed."""
MEASURES = ("F1_score", "SensL", "PPVL", "Dice", "NbTestedLesions", "VolTestedLesions")
"""Measures that are kept, by their official names."""

RaterScores = dict[str, dict[str, dict[str, dict[str, float | None]]]]
"""Rater -> pair -> ``others`` or ``consensus`` -> measure -> value."""


def score_raters(
    subjects: Iterable[LongitudinalSubject], reading: GateOptions, options: ScoreOptions
) -> RaterScores:
    """Score every rater of every pair against the majority of the others and the consensus.

    Pairs with masks of fewer than three raters are left out; so are, with a warning, those of which
    a mask is refused: what systems did on a pair does not depend on its raters.

    Args:
        subjects: labelled pairs.
        reading: options for reading their masks.
        options: thresholds of the scores.
    """

    def score(subject: LongitudinalSubject) -> dict[str, dict[str, dict[str, float | None]]]:
        reference = read_reference(subject, reading)
        return score_raters_of(rater_masks(subject, reading), reference, options)

    mapped = map_subjects(score, {subject.id: subject for subject in subjects}, step="raters")
    for pair, error in mapped.failed.items():
        for problem in error.problems:
            log.warning("%s: its raters are not scored: %s", pair, problem)
    found: RaterScores = {}
    for pair, raters in mapped.done.items():
        for rater, scores in raters.items():
            found.setdefault(rater, {})[pair] = scores
    return found


def score_raters_of(
    marks: Mapping[str, Volume], reference: Volume, options: ScoreOptions
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Scores of the raters of one pair; empty for fewer than three.

    Args:
        marks: rater -> mask.
        reference: their consensus.
        options: thresholds of the scores.

    Raises:
        MssegError: the masks lie on different grids.
    """
    if len(marks) < 3:
        return {}
    majority([reference, *marks.values()])  # one grid
    return {
        rater: {
            version: _measures(mark, against, options)
            for version, against in (
                (OTHERS, majority([other for name, other in marks.items() if name != rater])),
                (CONSENSUS, reference),
            )
        }
        for rater, mark in marks.items()
    }


def _measures(mark: Volume, against: Volume, options: ScoreOptions) -> dict[str, float | None]:
    score = score_case(mark.data, against.data, against.spacing_mm, options, distances=False)
    return {name: score.official[name] for name in MEASURES if name in score.official}


def merged(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Rater scores of several folds as one."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for rater, pairs in part.items():
            found.setdefault(rater, {}).update(pairs)
    return found


def rater_range(
    raters: Mapping[str, Mapping[str, Any]], measure: str
) -> tuple[float, float, float] | None:
    """Mean over raters of a measure, smallest and largest mean of a rater, against the others.

    Of the pairs where the measure has a value for every rater; None without any.

    Args:
        raters: as ``score_raters`` gives them.
        measure: official name.
    """
    values = [
        {pair: row[OTHERS].get(measure) for pair, row in rows.items()} for rows in raters.values()
    ]
    pairs = (
        set.intersection(
            *({pair for pair, value in rows.items() if value is not None} for rows in values)
        )
        if values
        else set()
    )
    if not pairs:
        return None
    means = [statistics.mean(float(rows[pair]) for pair in sorted(pairs)) for rows in values]
    return statistics.mean(means), min(means), max(means)
