"""Tables of a leaderboard as text cells, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from msseg_lightning.compare.froc import OPERATING_POINTS
from msseg_lightning.compare.leaderboard import (
    MEASURES,
    Leaderboard,
    SizeResult,
    paragraphs,
    rank_agreement,
)
from msseg_lightning.compare.statistics import PairResult, SystemResult
from msseg_lightning.core.table_cells import plain_row

DASH = "\u2013"
MARKDOWN_MARK = "<!-- made by msseg compare -->"
LATEX_MARK = "% made by msseg compare; needs the package booktabs"
CSV_HEAD = "system,rank,group,"

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def with_lesions(board: Leaderboard) -> Table:
    """The leaderboard of patients with new lesions, best first; empty without any."""
    if board.measure not in board.comparisons:
        return [], []
    ranked = board.measure
    shown = list(dict.fromkeys((ranked, "f1", "dice")))
    heads = ["System", "Group", "Rank", *(MEASURES[name].title for name in shown)]
    heads += ["Found", "False", "First", "Ranks", "Seeds", "Minutes", "Params"]
    rows = []
    for one in board.comparisons[ranked].systems:
        line = board.lines[one.system]
        cost = line.cost
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
                DASH if cost.minutes is None else f"{cost.minutes:.1f}",
                DASH if cost.parameters is None else _parameters(cost.parameters),
            ]
        )
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
    return ["System", "Group", "Rank", measure.title, "Clean patients", "95 % of their share"], rows


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


def by_size(board: Leaderboard) -> Table:
    """Lesion F1 by lesion size, pooled over patients; empty without lesions."""
    ranges = next((line.sizes for line in board.lines.values() if line.sizes), ())
    if not ranges:
        return [], []
    heads = ["System", *(f"{_size(one)} ({one.true} true)" for one in ranges)]
    rows = [[name, *(_size_cell(one) for one in board.lines[name].sizes)] for name in board.order]
    return heads, rows


def _size(one: SizeResult) -> str:
    if one.high_mm3 is None:
        return f"above {one.low_mm3:g} mm³"
    return f"up to {one.high_mm3:g} mm³" if not one.low_mm3 else f"to {one.high_mm3:g} mm³"


def _size_cell(one: SizeResult) -> str:
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


def markdown(board: Leaderboard, pictures: Sequence[str] = ()) -> str:
    """The leaderboard as a page of Markdown.

    Args:
        board: the leaderboard.
        pictures: files beside the page.
    """
    parts = [MARKDOWN_MARK, "# Leaderboard", *paragraphs(board)]
    for title, table, words in (
        ("Patients with new lesions", with_lesions(board), []),
        ("Patients without new lesions", without_lesions(board), []),
        ("Lesion F1 by lesion size", by_size(board), []),
        ("Other lesion rules", by_rule(board), rule_words(board)),
        ("Sensitivity over false lesions per patient", froc(board), []),
        ("Pairs of systems", pairs(board), []),
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
            "parameters": line.cost.parameters,
        }
        rows.append(row)
    return _csv(rows)


def csv_pairs(board: Leaderboard) -> str:
    """One row per measure and pair of systems."""
    return _csv(
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


def _csv(rows: Sequence[dict[str, object]]) -> str:
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
