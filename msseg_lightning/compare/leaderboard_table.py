"""Tables of a leaderboard as text cells, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from msseg_lightning.compare.activity import SCORES
from msseg_lightning.compare.froc import OPERATING_POINTS
from msseg_lightning.compare.leaderboard import (
    MEASURES,
    Leaderboard,
    Line,
    paragraphs,
    rank_agreement,
)
from msseg_lightning.compare.lesion_groups import TRAITS, LesionGroup
from msseg_lightning.compare.statistics import PairResult, SystemResult
from msseg_lightning.core.table_cells import plain_row

DASH = "\u2013"
MARKDOWN_MARK = "<!-- made by msseg compare -->"
LATEX_MARK = "% made by msseg compare; needs the package booktabs"
RATERS = "Raters: mean (range)"
"""First cell of the row of all raters."""
CSV_HEAD = "system,rank,group,"

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""
Section = tuple[str, Sequence[str], Table]
"""Title, words and table of a section."""


def with_lesions(board: Leaderboard) -> Table:
    """The leaderboard of patients with new lesions, best first; empty without any."""
    if board.measure not in board.comparisons:
        return [], []
    ranked = board.measure
    shown = list(dict.fromkeys((ranked, "f1", "dice")))
    heads = ["System", "Group", "Rank", *(MEASURES[name].title for name in shown)]
    heads += ["Found", "False", "First", "Ranks", "Seeds"]
    rows = []
    for one in board.comparisons[ranked].systems:
        line = board.lines[one.system]
        rows.append(
            [
                one.system,
                one.letters,
                str(one.rank),
                *(interval(board.result(name, one.system), MEASURES[name].form) for name in shown),
                f"{_count(line.found)} of {line.true}",
                _count(line.false),
                f"{100 * one.first:.0f} %",
                _range(one.rank_interval),
                str(line.seeds),
            ]
        )
    if board.raters.band(ranked) is not None:
        bands = [_band(board, name) for name in shown]
        rows.append([RATERS, "", "", *bands, *[""] * (len(heads) - 3 - len(bands))])
    return heads, rows


def without_lesions(board: Leaderboard) -> Table:
    """False lesions of patients without new lesions, fewest first; empty without any."""
    found = board.comparisons.get("false_lesions")
    if found is None:
        return [], []
    measure = MEASURES["false_lesions"]
    rows = []
    for one in found.systems:
        line = board.lines[one.system]
        low, high = line.clean_interval or (0.0, 1.0)
        rows.append(
            [
                one.system,
                one.letters,
                str(one.rank),
                interval(one, measure.form),
                f"{line.clean} of {board.patients[1]}",
                f"{low:.2f} to {high:.2f}",
            ]
        )
    if board.raters.band("false_lesions") is not None:
        rows.append([RATERS, "", "", _band(board, "false_lesions"), "", ""])
    return ["System", "Group", "Rank", measure.title, "Clean patients", "95 % of their share"], rows


def raters(board: Leaderboard) -> Table:
    """Raters against the majority of the others, best first; empty where none are recorded."""
    found = board.raters.others.get(board.measure) or board.raters.others.get("false_lesions")
    if found is None:
        return [], []
    ranked = board.measure if board.measure in board.raters.others else "false_lesions"
    shown = [name for name in dict.fromkeys((ranked, *MEASURES)) if name in board.raters.others]
    heads = ["Rater", *(MEASURES[name].title for name in shown)]
    heads.append(f"{MEASURES[ranked].title} against the consensus")
    rows = []
    for one in found.systems:
        cells = [
            interval(board.raters.others[name].of(one.system), MEASURES[name].form)
            for name in shown
        ]
        naive = board.raters.consensus[ranked][one.system]
        rows.append([_rater(one.system), *cells, f"{naive:{MEASURES[ranked].form}}"])
    means = [band.mean for name in shown if (band := board.raters.band(name)) is not None]
    cells = [f"{mean:{MEASURES[name].form}}" for name, mean in zip(shown, means, strict=True)]
    own = list(board.raters.consensus[ranked].values())
    rows.append(["Mean", *cells, f"{sum(own) / len(own):{MEASURES[ranked].form}}"])
    return heads, rows


def rater_words(board: Leaderboard) -> list[str]:
    """What the table of raters holds, in words."""
    counts = {
        group: len(found.patients)
        for name, group in ((board.measure, "with"), ("false_lesions", "without"))
        if (found := board.raters.others.get(name)) is not None
    }
    patients = " and ".join(f"{number} {group}" for group, number in counts.items())
    return [
        f"On the patients that every reference calls alike: {patients} new lesions. A rater has "
        "contributed to the consensus, so the last column flatters."
    ]


def _rater(name: str) -> str:
    return f"Rater {name.removeprefix('rater')}"


def _band(board: Leaderboard, name: str) -> str:
    """Smallest to largest mean of the raters."""
    band = board.raters.band(name)
    if band is None:
        return DASH
    form = MEASURES[name].form
    return f"{band.mean:{form}} ({band.low:.2f} to {band.high:.2f})"


def pairs(board: Leaderboard) -> Table:
    """All pairs of systems by the measure that ranks."""
    found = board.comparisons.get(board.measure)
    if found is None or not found.pairs:
        return [], []
    heads = ["Better", "Worse", "Difference", "p", "p (Holm)", "Told apart"]
    return heads, [_pair(pair, MEASURES[board.measure].form) for pair in found.pairs]


def _pair(pair: PairResult, form: str) -> list[str]:
    text = f"{pair.difference:{form}}"
    if pair.interval is not None:
        text += f" [{pair.interval[0]:{form}}, {pair.interval[1]:{form}}]"
    told = "yes" if pair.told_apart else "no"
    return [pair.better, pair.worse, text, _p(pair.p), _p(pair.p_holm), told]


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.5f}"


def by_trait(board: Leaderboard, trait: str) -> Table:
    """Lesion F1 by ``size``, ``contrast`` or ``region``, pooled over patients; empty without any.

    A system whose scores do not hold the trait has "not recorded" in its row.
    """
    groups = [board.lines[name].groups[trait] for name in board.order]
    known = next((one for one in groups if one), ())
    if not known:
        return [], []
    heads = ["System", *(f"{one.name} ({one.true}\u00a0true)" for one in known)]
    rows = [
        [name, *(_group_cell(one) for one in own)]
        if own
        else [name, "not recorded", *[DASH] * (len(known) - 1)]
        for name, own in zip(board.order, groups, strict=True)
    ]
    return heads, rows


def not_recorded(board: Leaderboard) -> list[str]:
    """What no stored score of this comparison holds, in words."""
    if board.measure not in board.comparisons:
        return []
    missing = [
        trait
        for trait in ("contrast", "region")
        if not any(line.groups[trait] for line in board.lines.values())
    ]
    if not missing:
        return []
    return [
        f"Lesion F1 by {' and by '.join(missing)}: not recorded. Scores hold the contrast of "
        "lesions where the follow-up scan lies on the grid of the reference, and their region "
        "where there is also a mask of the brain; those of earlier versions hold neither."
    ]


def activity(board: Leaderboard) -> Table:
    """Patients with new lesions told from those without; empty unless there are both."""
    known = {name: one for name in board.order if (one := board.lines[name].activity) is not None}
    if not known:
        return [], []
    heads = ["System", "With, marked", "Without, marked", *(f"Area, {name}" for name in SCORES)]
    rows = []
    for name, one in known.items():
        cells = [f"{_count(one.active_marked)} of {one.active}"]
        cells.append(f"{_count(one.inactive_marked)} of {one.inactive}")
        for roc in one.rocs.values():
            low, high = roc.interval if roc else (0.0, 1.0)
            cells.append(f"{roc.area:.3f} [{low:.2f}, {high:.2f}]" if roc else "not recorded")
        rows.append([name, *cells])
    return heads, rows


def cost(board: Leaderboard) -> Table:
    """Measured and reported figures, and what fitting cost."""
    shown = [name for name in ("f1", "dice") if name in board.comparisons]
    heads = ["System"]
    for name in shown:
        heads += [MEASURES[name].title, f"{MEASURES[name].title}, paper"]
    heads += ["CPU minutes", "Minutes", "Peak memory", "Params"]
    rows = []
    for name in board.order:
        line, row = board.lines[name], [name]
        for measure in shown:
            result = board.result(measure, name)
            row.append(DASH if result is None else f"{result.mean:.3f}")
            figure = line.reported.get(measure)
            row.append(DASH if figure is None else f"{figure:.3f}")
        spent = line.cost
        row += [
            DASH if spent.cpu_minutes is None else f"{spent.cpu_minutes:.1f}",
            DASH if spent.minutes is None else f"{spent.minutes:.1f}",
            DASH if spent.peak_mib is None else f"{spent.peak_mib / 1024:.1f} GiB",
            DASH if spent.parameters is None else _parameters(spent.parameters),
        ]
        rows.append(row)
    return heads, rows


def _group_cell(one: LesionGroup) -> str:
    if one.f1 is None:
        return DASH
    if one.interval is None:
        return f"{one.f1:.2f}"
    return f"{one.f1:.2f} [{one.interval[0]:.2f}, {one.interval[1]:.2f}]"


def by_rule(board: Leaderboard) -> Table:
    """Lesion F1 and rank by other lesion rules; empty without lesions."""
    if not board.rules:
        return [], []
    heads = ["System", *(name[0].upper() + name[1:] for name in board.rules)]
    rows = []
    for name in board.order:
        results = [found.of(name) for found in board.rules.values()]
        rows.append([name, *(f"{one.mean:.3f} ({one.rank})" for one in results)])
    return heads, rows


def froc(board: Leaderboard) -> Table:
    """Sensitivity at false lesions per patient; empty without curves."""
    if not board.froc:
        return [], []
    heads = ["System", "Mean", *(f"At {point:g}" for point in OPERATING_POINTS)]
    rows = []
    for name in board.order:
        if (curve := board.froc.get(name)) is not None:
            mean = f"{curve.mean:.3f}"
            if curve.interval is not None:
                mean += f" [{curve.interval[0]:.2f}, {curve.interval[1]:.2f}]"
            rows.append([name, mean, *(f"{value:.3f}" for value in curve.at)])
    return heads, rows


def rule_words(board: Leaderboard) -> list[str]:
    """How far each rule moves the ranking, in words."""
    texts: list[str] = []
    if not board.rules or len(board.lines) < 2:
        return texts
    official = board.rules["official"]
    for name, found in board.rules.items():
        if name == "official":
            continue
        moves = {one.system: found.of(one.system).rank - one.rank for one in official.systems}
        system = max(moves, key=lambda key: abs(moves[key]))
        tau = rank_agreement(board, name)
        text = f"{name[0].upper()}{name[1:]}: "
        if not any(moves.values()):
            text += "the same ranking"
        else:
            step = abs(moves[system])
            places = "place" if step == 1 else "places"
            text += (
                f"{sum(1 for move in moves.values() if move)} of {len(moves)} systems move, most "
                f"{system} by {step} {places} {'down' if moves[system] > 0 else 'up'}"
            )
        first = [one.system for one in found.systems if one.rank == 1]
        text += f"; first is {', '.join(first)}"
        texts.append(text + (f"; Kendall's tau {tau:.2f}." if tau is not None else "."))
    return texts


def interval(one: SystemResult | None, form: str) -> str:
    """Mean and interval of a result."""
    if one is None:
        return DASH
    if one.interval is None:
        return f"{one.mean:{form}}"
    return f"{one.mean:{form}} [{one.interval[0]:.2f}, {one.interval[1]:.2f}]"


def _count(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _parameters(number: int) -> str:
    """In millions, so that a sorted column is in order."""
    return f"{number / 1e6:.3g} M"


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def short_text(board: Leaderboard) -> str:
    """The words and the tables of both groups of patients, for a terminal."""
    tables = [table for table in (with_lesions(board), without_lesions(board)) if table[1]]
    return "\n\n".join([*paragraphs(board), *map(markdown_table, tables)]) + "\n"


def markdown(
    board: Leaderboard, pictures: Sequence[str] = (), further: Sequence[Section] = ()
) -> str:
    """The leaderboard as a page of Markdown.

    Args:
        board: the leaderboard.
        pictures: files beside the page.
        further: sections at the end.
    """
    parts = [MARKDOWN_MARK, "# Leaderboard", *paragraphs(board), *not_recorded(board)]
    for title, table, words in (
        ("Patients with new lesions", with_lesions(board), []),
        ("Patients without new lesions", without_lesions(board), []),
        ("Raters", raters(board), rater_words(board)),
        *((f"Lesion F1 by {name}", by_trait(board, name), []) for name in TRAITS),
        ("Active patients", activity(board), []),
        ("Other lesion rules", by_rule(board), rule_words(board)),
        ("Sensitivity over false lesions per patient", froc(board), []),
        ("Cost, and figures of the papers", cost(board), []),
        ("Pairs of systems", pairs(board), []),
        *((title, table, words) for title, words, table in further),
    ):
        if table[1]:
            parts += [f"## {title}", *words, markdown_table(table)]
        if title == "Patients with new lesions":
            parts += [f"![{name}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table of Markdown; numbers are aligned right."""
    heads, rows = table
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(heads) - 1), *lines[1:]])


def csv_table(board: Leaderboard) -> str:
    """One row per system with all numbers; undefined ones are empty."""
    rows = []
    for name in board.order:
        line, ranked = board.lines[name], board.result(board.measure, name)
        row: dict[str, object] = {
            "system": name,
            "rank": ranked.rank if ranked else None,
            "group": ranked.letters if ranked else None,
            "first": ranked.first if ranked else None,
            "rank_low": ranked.rank_interval[0] if ranked else None,
            "rank_high": ranked.rank_interval[1] if ranked else None,
            "ranked_by": board.measure,
            "seeds": line.seeds,
            "patients_with": board.patients[0],
            "patients_without": board.patients[1],
        }
        for measure in MEASURES:
            one = board.result(measure, name)
            low, high = (one.interval if one else None) or (None, None)
            row |= {
                measure: one.mean if one else None,
                f"{measure}_low": low,
                f"{measure}_high": high,
            }
        row |= {
            "true_lesions": line.true,
            "found_lesions": line.found,
            "false_lesions_with": line.false,
            "clean_patients": line.clean,
            "minutes": line.cost.minutes,
            "cpu_minutes": line.cost.cpu_minutes,
            "peak_mib": line.cost.peak_mib,
            "parameters": line.cost.parameters,
            "reported_f1": line.reported.get("f1"),
            "reported_dice": line.reported.get("dice"),
            **_activity_areas(line),
            "reference": board.reference,
            **_rater_band(board),
        }
        rows.append(row)
    return csv_text(rows)


def _activity_areas(line: Line) -> dict[str, float | None]:
    rocs = line.activity.rocs if line.activity else {}
    return {
        f"activity_area_{name.replace(' ', '_')}": roc.area if (roc := rocs.get(name)) else None
        for name in SCORES
    }


def _rater_band(board: Leaderboard) -> dict[str, float | None]:
    band = board.raters.band(board.measure)
    values = (band.low, band.mean, band.high) if band else (None, None, None)
    return dict(zip(("raters_low", "raters_mean", "raters_high"), values, strict=True))


def csv_pairs(board: Leaderboard) -> str:
    """One row per measure and pair of systems."""
    return csv_text(
        [
            {
                "measure": name,
                "better": pair.better,
                "worse": pair.worse,
                "difference": pair.difference,
                "low": pair.interval[0] if pair.interval else None,
                "high": pair.interval[1] if pair.interval else None,
                "p": pair.p,
                "p_holm": pair.p_holm,
                "told_apart": pair.told_apart,
            }
            for name, found in board.comparisons.items()
            for pair in found.pairs
        ]
        or [{"measure": None, "better": None, "worse": None}]
    )


def csv_text(rows: Sequence[dict[str, object]]) -> str:
    """Rows with the same keys as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(plain_row, rows))
    return stream.getvalue()


def latex(board: Leaderboard) -> str:
    """Both groups of patients as tables of LaTeX."""
    parts = [LATEX_MARK]
    for title, (heads, rows) in (
        ("Patients with new lesions", with_lesions(board)),
        ("Patients without new lesions", without_lesions(board)),
    ):
        if rows:
            lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (heads, *rows)]
            parts += [
                f"% {title}",
                rf"\begin{{tabular}}{{ll{'r' * (len(heads) - 2)}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
            ]
    return "\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", DASH: "--",
}  # fmt: skip


def _escaped(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped
