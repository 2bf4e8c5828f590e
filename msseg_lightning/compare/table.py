"""Folds and seeds of one system in a table with intervals and paired differences."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.table_cells import plain_cell

Group = Literal["with new lesions", "without new lesions"]

MEASURES: Mapping[Group, tuple[str, ...]] = {
    "with new lesions": ("F1_score", "SensL", "PPVL", "Dice"),
    "without new lesions": ("NbTestedLesions", "VolTestedLesions"),
}
"""Measures by group, by their official names."""

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """Scores of a run, or of all folds of one experiment and seed.

    Args:
        name: experiment and run without its fold.
        official: case -> measure -> value; None where undefined.
    """

    name: str
    official: Mapping[str, Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One measure of one run.

    Args:
        group: cases it is taken over.
        measure: official name.
        run: whose.
        cases: cases in which it has a value.
        mean: over those.
        interval: bootstrap 95 % interval of the mean; None with fewer than 2 cases.
        difference: mean over common cases of this run minus the first run; None for the first.
        difference_interval: bootstrap 95 % interval of it; zero inside means no difference shown.
        pairs: common cases.
    """

    group: Group
    measure: str
    run: str
    cases: int
    mean: float | None
    interval: tuple[float, float] | None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    pairs: int = 0


def compare_runs(runs: Sequence[ScoredRun], seed: int = 0) -> list[Row]:
    """Compute every measure of every run and its difference from the first run on common cases.

    Cases are resampled, not lesions. The same seed gives the same intervals in any order of cases.
    """
    return [
        _row(group, measure, run, runs[0], seed)
        for group, measures in MEASURES.items()
        for measure in measures
        for run in runs
    ]


def _row(group: Group, measure: str, run: ScoredRun, first: ScoredRun, seed: int) -> Row:
    own = _values(run, measure)
    values = np.array([own[case] for case in sorted(own)])
    row = Row(
        group=group,
        measure=measure,
        run=run.name,
        cases=len(values),
        mean=float(values.mean()) if len(values) else None,
        interval=_interval(values, seed, measure),
    )
    if run is first:
        return row
    other = _values(first, measure)
    differences = np.array([own[case] - other[case] for case in sorted(own) if case in other])
    return dataclasses.replace(
        row,
        pairs=len(differences),
        difference=float(differences.mean()) if len(differences) else None,
        difference_interval=_interval(differences, seed, measure),
    )


def _values(run: ScoredRun, measure: str) -> dict[str, float]:
    found = {case: official.get(measure) for case, official in run.official.items()}
    return {case: float(value) for case, value in found.items() if value is not None}


def _interval(values: NDArray[np.float64], seed: int, name: str) -> tuple[float, float] | None:
    """Percentile bootstrap of the mean."""
    if len(values) < 2:
        return None
    generator = keyed_generator(seed, "compare.bootstrap", name)
    means = values[generator.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def table_csv(rows: Sequence[Row]) -> str:
    """The table as CSV; cells of undefined values are empty."""
    stream = io.StringIO()
    names = ["group", "measure", "run", "cases", "mean", "low", "high"]
    names += ["difference", "difference_low", "difference_high", "pairs"]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            [
                *(row.group, row.measure, plain_cell(row.run), row.cases, row.mean),
                *(row.interval or (None, None)),
                row.difference,
                *(row.difference_interval or (None, None)),
                row.pairs,
            ]
        )
    return stream.getvalue()
