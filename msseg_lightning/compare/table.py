"""Comparison of runs in a table with intervals and paired differences."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.files import read_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator

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
        rules: protocol and options of the scorer.
    """

    name: str
    official: Mapping[str, Mapping[str, float | None]]
    rules: str


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


def read_runs(folders: Sequence[Path]) -> list[ScoredRun]:
    """Read ``scores.json`` of run folders; folds of one experiment and seed become one run.

    Raises:
        MssegError: a folder has no scores, a case appears in two folds, or runs were scored by
            different rules (exit 3).
    """
    pooled: dict[str, ScoredRun] = {}
    for folder in folders:
        run = _read_run(folder)
        if run.name in pooled:
            run = _pool(pooled[run.name], run, folder)
        pooled[run.name] = run
    runs = list(pooled.values())
    if len({run.rules for run in runs}) > 1:
        raise _problem(
            "compare.rules",
            "the runs were scored by different rules",
            field="protocol, options",
            found="; ".join(sorted({run.rules for run in runs})),
            remedy="score them again with the same options of `msseg evaluate`",
        )
    return runs


def _read_run(folder: Path) -> ScoredRun:
    file = folder / "scores.json"
    try:
        content = read_record(file)
        cases = {name: case["official"] for name, case in content["cases"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _problem(
            "compare.no_scores",
            "this run has no readable scores",
            file=f"{folder.name}/scores.json",
            found=type(error).__name__,
            remedy="finish it with the same `msseg train` command",
        ) from error
    rules = json.dumps([content.get("protocol"), content.get("options")], sort_keys=True)
    path = folder.resolve()
    return ScoredRun(f"{path.parent.name}/{re.sub(r'-fold[0-9]+', '', path.name)}", cases, rules)


def _pool(first: ScoredRun, second: ScoredRun, folder: Path) -> ScoredRun:
    twice = sorted(set(first.official) & set(second.official))
    if twice or first.rules != second.rules:
        raise _problem(
            "compare.folds",
            "folds of one run must hold different cases, scored by the same rules",
            file=folder.name,
            field="cases" if twice else "options",
            found=f"{len(twice)} cases in two folds" if twice else "other rules",
            remedy="give each fold once",
        )
    return dataclasses.replace(first, official={**first.official, **second.official})


def _problem(code: str, message: str, **more: Any) -> MssegError:
    return MssegError(Problem(code, message, exit_code=ExitCode.DATA, **more))


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


def table_text(rows: Sequence[Row]) -> str:
    """The table as aligned text."""
    width = max((len(row.run) for row in rows), default=0)
    lines = []
    group = measure = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(f"\nCases {group}")
        if row.measure != measure:
            measure = row.measure
            lines.append(f"  {measure}")
        text = f"    {row.run:<{width}}  {_number(row.mean)} {_range(row.interval)}  n={row.cases}"
        if row.difference is not None:
            text += (
                f"   difference {_number(row.difference, '+.3f')} "
                f"{_range(row.difference_interval, '+.3f')}  pairs={row.pairs}"
            )
        lines.append(text)
    return "\n".join(lines).lstrip("\n") + "\n"


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
                *(row.group, row.measure, row.run, row.cases, row.mean),
                *(row.interval or (None, None)),
                row.difference,
                *(row.difference_interval or (None, None)),
                row.pairs,
            ]
        )
    return stream.getvalue()


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _range(interval: tuple[float, float] | None, form: str = ".3f") -> str:
    return "" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"
