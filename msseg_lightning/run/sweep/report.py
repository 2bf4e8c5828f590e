"""HTML report of a search: summary, candidates, plots and all trials."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from msseg_lightning.core.files import atomic_write
from msseg_lightning.report import page
from msseg_lightning.run.sweep.result import PLOTS, SweepResult, plots, score_text, shown

LARGEST_TABLE = 500
"""Largest number of rows; ``trials.csv`` has all."""

# The plots compile shaders and formulas from text; no address may be contacted.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'; worker-src blob:"
)

TITLES = {
    "optimization_history": "History",
    "param_importances": "Importance",
    "slice": "Slices",
    "parallel_coordinate": "Parallel coordinates",
    "pareto_front": "Pareto front",
}


def build_sweep_report(found: SweepResult, output: Path) -> Path:
    """Write the report of a sweep, also while it is running.

    Args:
        found: result of the sweep.
        output: the HTML file; it needs no network (5 MB, mostly Plotly).
    """
    name = found.study.study.study_name
    html = page.document(
        f"Search {name}",
        [
            page.piece("answer", name, found.paragraphs()),
            _candidates(found),
            _plots(found),
            _trials(found),
        ],
        POLICY,
    )
    with atomic_write(output) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return output


def _candidates(found: SweepResult) -> Markup:
    """Table of the best candidates with their scores in the search and with new seeds."""
    if not found.retrained:
        return Markup("")
    seeds = [f"seed {seed}" for seed in found.study.search.retrain_seeds]
    winner = found.winner[0].trial if found.winner else None
    rows = [
        [
            f"{one.trial}{' (winner)' if one.trial == winner else ''}",
            ", ".join(f"{key.split('.')[-1]} {shown(value)}" for key, value in one.values.items()),
            score_text(one.search_score),
            *map(score_text, one.scores),
            score_text(expected),
        ]
        for one, expected in found.retrained
    ]
    heads = ["Trial", "Settings", "In the search", *seeds, "Expect"]
    how = (
        "The score in the search is the best of many and therefore too good; the last column is "
        "the one to quote."
    )
    table = page.text_table(heads, rows)
    return page.piece("section", "The best of the search, trained again", [how], table)


def _plots(found: SweepResult) -> Markup:
    from plotly.offline import get_plotlyjs

    sections = []
    for name, figure in plots(found.study).items():
        figure.update_layout(
            title=None,
            template="plotly_white",
            width=None,
            autosize=True,
            height=400,
            margin={"l": 70, "r": 30, "t": 30, "b": 60},
        )
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displaylogo": False, "responsive": True},
        )
        sections.append(
            page.piece("section", TITLES[name], [f"{PLOTS[name]}."], Markup(drawn))  # Plotly's own
        )
    if not sections:
        return Markup("")
    script = Markup("<script>" + get_plotlyjs() + "</script>")  # Plotly's own
    return script + Markup("").join(sections)


def _trials(found: SweepResult) -> Markup:
    search = found.study.search
    keys = [one.key for one in search.space]
    trials = [trial for trial in found.study.trials() if trial.user_attrs.get("surplus") is None]
    rows = [
        [
            str(trial.number),
            trial.state.name.lower() + (" (error)" if "error" in trial.user_attrs else ""),
            *map(score_text, trial.values or ()),
            *([""] * (len(search.objective) - len(trial.values or ()))),
            str(len(trial.intermediate_values) or ""),
            *(shown(trial.params[key]) if key in trial.params else "" for key in keys),
            str(trial.user_attrs.get("retry_of", "")),
        ]
        for trial in trials[:LARGEST_TABLE]
    ]
    heads = [
        *("Trial", "State", *(goal.metric for goal in search.objective), "Folds"),
        *keys,
        "Again after",
    ]
    more = f" The first {LARGEST_TABLE} are shown." if len(trials) > LARGEST_TABLE else ""
    how = (
        f"{len(trials)} trials; those that failed were killed and tried again, or ended with an "
        f"error, and do not count.{more} Click a heading to sort."
    )
    return page.piece("section", "Trials", [how], page.text_table(heads, rows))
