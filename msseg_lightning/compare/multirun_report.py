"""Report of all folds and seeds of one system."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from msseg_lightning.compare.table import MEASURES, Group, Row, ScoredRun, compare_runs, table_csv
from msseg_lightning.core.files import atomic_write, require_record
from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.report import page
from msseg_lightning.run.config.compose import Config, experiment_of
from msseg_lightning.run.folder import read_scores
from msseg_lightning.run.predict.rater_scores import rater_range
from msseg_lightning.run.predict.trained import stored_config
from msseg_lightning.run.train.run_report import notes, point_section, shown_card

HEADS: Mapping[Group, tuple[str, ...]] = {
    "with new lesions": (
        *("Pairs", "Found", "False", "Lesion F1", "Sensitivity", "Precision", "Dice"),
    ),
    "without new lesions": ("Pairs", "Clean pairs", "False lesions per pair", "False mm³ per pair"),
}


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """Scores of all held-out pairs of one seed.

    Args:
        seed: which.
        folder: with ``scores.json`` and ``out_of_fold.json``.
        cases: pair -> scores.
        origin: pair -> fold and name of the run that held it out.
        content: the rest of ``scores.json``.
    """

    seed: int
    folder: Path
    cases: Mapping[str, CaseScore]
    origin: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> SeedResult:
        """Read the scores that ``run.train.folds_and_seeds.combine_folds`` wrote."""
        content = read_scores(folder / "scores.json")
        cases = {case: CaseScore.from_dict(row) for case, row in content.pop("cases").items()}
        origin = require_record(
            folder / "out_of_fold.json", "give the `msseg train` command of all folds again"
        )
        return cls(int(content["seed"]), folder, cases, origin, content)


def build_multirun_report(folders: Sequence[Path]) -> Path:
    """Write ``report.html`` and ``summary.csv`` for all seeds of a system.

    Args:
        folders: one per seed, from ``run.train.folds_and_seeds.train_multirun``.

    Returns:
        The page: in the folder of the only seed, else in a folder of its own beside them.
    """
    seeds = _common([SeedResult.read(folder) for folder in folders])
    place = folders[0]
    if len(seeds) > 1:
        numbers = "+".join(str(one.seed) for one in seeds)
        place = place.with_name(re.sub(r"-seed\d+$", f"-seeds{numbers}", place.name))
        place.mkdir(exist_ok=True)
    config = stored_config(folders[0] / "model")
    runs = _runs(seeds)
    rows = compare_runs([run for run, _ in runs])
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    html = page.document(
        f"{config['name']}, all folds",
        [
            page.header(
                shown_card(config),
                _setting(config, seeds),
                notes(config, seeds[0].content["summary"]),
            ),
            _how(seeds),
            *(
                _group(group, runs, by_run, seeds[0].content.get("raters", {}))
                for group in MEASURES
            ),
            *(point_section(one.folder, one.folder / "model") for one in seeds),
            _cases(seeds),
            _models(seeds),
        ],
    )
    with atomic_write(place / "summary.csv") as temporary:
        temporary.write_text(table_csv(rows), encoding="utf-8")
    with atomic_write(place / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return place / "report.html"


def _common(seeds: Sequence[SeedResult]) -> list[SeedResult]:
    """Reduce all seeds to the pairs that they have in common."""
    shared = set.intersection(*(set(one.cases) for one in seeds))
    return [
        dataclasses.replace(
            one, cases={case: score for case, score in one.cases.items() if case in shared}
        )
        for one in seeds
    ]


Counted = Sequence[Mapping[str, CaseScore]]
"""Scores of a line of the table, one mapping per seed."""


def _runs(seeds: Sequence[SeedResult]) -> list[tuple[ScoredRun, Counted]]:
    """The lines of the table: all seeds, each seed, each fold of each seed."""
    found: list[tuple[ScoredRun, Counted]] = []
    if len(seeds) > 1:
        found.append(_line(f"mean of {len(seeds)} seeds", [one.cases for one in seeds]))
    found += [_line(f"seed {one.seed}, all folds", [one.cases]) for one in seeds]
    for one in seeds:
        folds = sorted({origin["fold"] for origin in one.origin.values()})
        for fold in folds if len(folds) > 1 else ():
            cases = {c: score for c, score in one.cases.items() if one.origin[c]["fold"] == fold}
            found.append(_line(f"seed {one.seed}, fold {fold}", [cases]))
    return found


def _line(name: str, seeds: Counted) -> tuple[ScoredRun, Counted]:
    """A line of the table; a pair counts once, by its mean over seeds."""
    official = {case: _mean([cases[case].official for cases in seeds]) for case in seeds[0]}
    return ScoredRun(name, official), seeds


def _mean(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        found[name] = statistics.mean(values) if len(values) == len(rows) else None
    return found


def _group(
    group: Group,
    runs: Sequence[tuple[ScoredRun, Counted]],
    by_run: Mapping[str, Sequence[Row]],
    raters: Mapping[str, Any],
) -> Markup:
    title, why = page.GROUPS[group.replace(" ", "_")]
    rows = []
    for run, seeds in runs:
        measured = {row.measure: row for row in by_run[run.name] if row.group == group}
        counts = _counts(group, seeds)
        if counts:
            cells = [_interval(measured[name]) for name in MEASURES[group]]
            rows.append([run.name.capitalize(), *counts, *cells])
    if not rows:
        return Markup("")
    ranges = [rater_range(raters, name) for name in MEASURES[group]]
    if any(ranges):
        counts = [""] * (len(rows[0]) - 1 - len(ranges))
        cells = [
            page.DASH
            if found is None
            else "{:{form}} ({:{form}} to {:{form}})".format(*found, form=_form(name))
            for name, found in zip(MEASURES[group], ranges, strict=True)
        ]
        rows.append(["Raters against the others: mean (range)", *counts, *cells])
    table = page.text_table(("", *HEADS[group]), rows)
    return page.piece("section", title, [why + _spread(group, runs)], table)


def _counts(group: Group, seeds: Counted) -> list[str]:
    """Number of pairs and counts, per seed."""
    wanted = group == "with new lesions"
    chosen = [[s for s in cases.values() if s.has_new_lesions == wanted] for cases in seeds]
    pairs = len(chosen[0])
    if pairs == 0:
        return []
    each = 1 / len(seeds)
    scores = [score for one in chosen for score in one]
    if wanted:
        detection = [score.detection for score in scores]
        true, found, predicted, right = (
            sum(float(one[name] or 0) for one in detection) * each
            for name in ("n_ref", "tp_ref", "n_test", "tp_test")
        )
        return [str(pairs), f"{found:g} of {true:g}", f"{predicted - right:g}"]
    clean = sum(score.official["NbTestedLesions"] == 0 for score in scores) * each
    return [str(pairs), f"{clean:g} of {pairs}"]


def _spread(group: Group, runs: Sequence[tuple[ScoredRun, Counted]]) -> str:
    """Standard deviation of the seeds' means."""
    name = MEASURES[group][0]
    means = []
    for run, _ in runs:
        values = [value for row in run.official.values() if (value := row.get(name)) is not None]
        if run.name.endswith("all folds") and values:
            means.append(statistics.mean(values))
    if group == "with new lesions" and len(means) > 1:
        return f" Lesion F1 over {len(means)} seeds: SD {statistics.stdev(means):.3f}."
    return ""


def _interval(row: Row) -> str:
    if row.mean is None:
        return page.DASH
    form = _form(row.measure)
    if row.interval is None:
        return f"{row.mean:{form}}"
    return f"{row.mean:{form}} [{row.interval[0]:{form}}, {row.interval[1]:{form}}]"


def _form(measure: str) -> str:
    return {"NbTestedLesions": ".2f", "VolTestedLesions": ",.0f"}.get(measure, ".3f")


def _cases(seeds: Sequence[SeedResult]) -> Markup:
    """Table with one line per pair and its scores by seed."""
    columns: Mapping[str, Callable[[CaseScore], float | None]] = {
        "Dice": lambda score: score.official.get("Dice"),
        "Lesion F1": lambda score: score.official.get("F1_score"),
        "Predicted": lambda score: score.detection["n_test"],
    }
    heads = ["Pair", "Group", "Fold", "True lesions"]
    heads += [f"{name}{_of(one, seeds)}" for name in columns for one in seeds]
    first = seeds[0]
    rows = []
    for case, score in sorted(first.cases.items(), key=lambda one: not one[1].has_new_lesions):
        values = [value_of(one.cases[case]) for value_of in columns.values() for one in seeds]
        rows.append(
            [
                case,
                "with" if score.has_new_lesions else "without",
                str(first.origin[case]["fold"]),
                f"{score.detection['n_ref'] or 0:g}",
                *map(_value, values),
            ]
        )
    how = "Each was predicted by the run that held it out. Click a heading to sort."
    return page.piece("section", "Pairs", [how], page.text_table(heads, rows))


def _value(value: float | None) -> str:
    if value is None:
        return page.DASH
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}"


def _of(one: SeedResult, seeds: Sequence[SeedResult]) -> str:
    return f", seed {one.seed}" if len(seeds) > 1 else ""


def _models(seeds: Sequence[SeedResult]) -> Markup:
    """Folders of the runs and of the model of all folds."""
    return page.piece(
        "models",
        [
            (one.seed, one.folder, sorted({str(origin["run"]) for origin in one.origin.values()}))
            for one in seeds
        ],
    )


def _how(seeds: Sequence[SeedResult]) -> Markup:
    several = (
        " With several seeds a pair counts once, by the mean of its scores."
        if len(seeds) > 1
        else ""
    )
    how = (
        "Every pair was scored by a run that had not "
        "seen its patient. Brackets hold the bootstrap 95 % interval of the mean over pairs; it "
        f"says what other patients would change, not what another training would.{several} A line "
        "of one fold has few pairs and is there to show spread, not to choose a fold."
    )
    return page.piece("section", "How to read the tables", [how])


def _commits(content: Mapping[str, Any]) -> list[str]:
    """Commits of all folds; one if they are equal."""
    found = content["commit"] if isinstance(content["commit"], list) else [content["commit"]]
    return list(dict.fromkeys(str(commit)[:12] for commit in found if commit))


def _setting(config: Config, seeds: Sequence[SeedResult]) -> dict[str, object]:
    content = seeds[0].content
    return {
        "experiment": experiment_of(config),
        "size": config["size"],
        "pairs": len(seeds[0].cases),
        "folds": content["split"]["folds"],
        "seeds": [one.seed for one in seeds],
        "evaluated on": "every pair, by the run that held it out",
        "threshold": content["threshold"],
        "protocol": content["protocol"],
        "commit": ", ".join(_commits(content)) or "not a git checkout",
    }
