"""HTML parts of pages, rendered from templates that escape all values."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from msseg_lightning.core.wording import counted, reported_text
from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.report.picture import COLUMNS, PLANES

# No address may be contacted, whatever a name in the data contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

GROUPS = {
    "with_new_lesions": (
        "Cases with new lesions",
        "How many true lesions are found, and how well outlined.",
    ),
    "without_new_lesions": (
        "Cases without new lesions",
        "Anything marked here is a false alarm.",
    ),
    "dice_as_papers_count_empty_cases": (
        "Dice, as papers count empty cases",
        "Mixes both groups; only for comparison with a table that did.",
    ),
}
KINDS = {
    "missed": "Missed",
    "false": "False",
    "found": "Found",
    "predicted": "Predicted",
}


GENERATOR = "msseg report"
"""Marks pages of this package, which may be overwritten."""


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("msseg_lightning.report", "templates"), autoescape=True
    )
    environment.filters |= {
        "label": _label,
        "shown": _shown,
        "reported": reported_text,
        "counted": counted,
    }
    return environment


def piece(name: str, *values: object, **named: object) -> Markup:
    """Render a macro of ``templates/pieces.html``."""
    macro = getattr(_environment().get_template("pieces.html").module, name)
    return Markup(macro(*values, **named))


def document(title: str, sections: Sequence[Markup], policy: str = POLICY) -> str:
    """Render a whole page; ``policy`` is its content security policy."""
    assets = resources.files("msseg_lightning.report")
    return (
        _environment()
        .get_template("document.html")
        .render(
            title=title,
            generator=GENERATOR,
            sections=sections,
            policy=policy,
            style=assets.joinpath("report.css").read_text(encoding="utf-8"),
            script=assets.joinpath("report.js").read_text(encoding="utf-8"),
        )
    )


def header(card: Mapping[str, Any], setting: Mapping[str, object], notes: Sequence[str]) -> Markup:
    """Header of a page: name, idea, paper, settings and notes."""
    return piece("header", card, setting, notes)


def headline(summary: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Main results of cases with and without new lesions."""
    groups = [
        (*GROUPS.get(group, (_label(group), "")), measures) for group, measures in summary.items()
    ]
    return piece("headline", groups)


CASE_COLUMNS = (
    ("Case", "id of the pair"),
    ("Group", "with or without new lesions in the reference"),
    ("Dice", "overlap of the masks"),
    ("Lesion F1", "official lesion score"),
    ("Sensitivity", "share of the true lesions found"),
    ("Precision", "share of the predicted lesions that are true"),
    ("True", "lesions in the reference that count"),
    ("Found", "of them found"),
    ("False", "predicted lesions that count as no match"),
    ("True mm³", "volume of the reference"),
    ("Predicted mm³", "volume of the prediction"),
    ("Mean surface distance mm", "average symmetric surface distance; not the Hausdorff distance"),
)


def case_table(cases: Sequence[tuple[str, CaseScore | None]]) -> Markup:
    """Sortable table with one row per case."""
    rows = [_case_row(case, score) for case, score in cases if score is not None]
    remarks = [
        remark for case, score in cases if score is not None and (remark := one_sided(case, score))
    ]
    return piece("case_table", CASE_COLUMNS, rows, remarks)


def one_sided(case: str, score: CaseScore) -> str:
    """Why a pair has found lesions but no right prediction, or the reverse; empty otherwise."""
    counts = score.detection
    found, true = counts["tp_ref"], counts["n_ref"]
    right, predicted = counts["tp_test"], counts["n_test"]
    if not true or not predicted or bool(found) == bool(right):
        return ""
    return (
        f"{case}: {found:.0f} of {counted(int(true), 'true lesion')} found, but {right:.0f} of "
        f"{counted(int(predicted), 'predicted lesion')} right. The official rule counts the two "
        "separately. A lesion of one mask counts if enough of it is covered by the other mask and "
        "the lesions that cover it lie mostly inside; the same overlap can be enough of the one "
        "lesion and too little of the other, such as a small mark in a large lesion."
    )


def _case_row(case: str, score: CaseScore) -> tuple[str, str, list[tuple[object, str]]]:
    """Case, group, and value and text of each measure."""
    official, found = score.official, score.detection
    predicted, right = found["n_test"], found["tp_test"]
    false = None if predicted is None or right is None else predicted - right
    numbers: list[tuple[float | None, str]] = [
        (official.get("Dice"), ".3f"),
        (official.get("F1_score"), ".3f"),
        (official.get("SensL"), ".3f"),
        (official.get("PPVL"), ".3f"),
        (found["n_ref"], ".0f"),
        (found["tp_ref"], ".0f"),
        (false, ".0f"),
        (score.reference_volume_mm3, ".0f"),
        (score.predicted_volume_mm3, ".0f"),
        (score.surface.get("average_symmetric_surface_distance_mm"), ".2f"),
    ]
    cells: list[tuple[object, str]] = [
        (value, f"{value:{form}}") if value is not None and math.isfinite(value) else ("", DASH)
        for value, form in numbers
    ]
    return case, "with" if score.has_new_lesions else "without", cells


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Sortable table of texts; numbers are sorted as numbers."""
    cells = [
        (escape(first).replace("_", _BREAK), [(_sort_value(text), text) for text in rest])
        for first, *rest in rows
    ]
    return piece("text_table", heads, cells)


_BREAK = Markup("_<wbr>")
"""Where a long name may be broken."""


def _sort_value(text: str) -> object:
    """Key by which a text is sorted: its leading number, if it has one."""
    number = text.split(" ")[0].replace(",", "")  # of "0.61 [0.50, 0.70]" the first
    if re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", number):  # float() takes "infinity" too
        return float(number)
    return None if text else ""


def lesions(
    cards: Sequence[Markup],
    counts: Mapping[str, int],
    shown: Mapping[str, int],
    too_small: int = 0,
) -> Markup:
    """Cards of lesions, with buttons to filter them by kind.

    Args:
        cards: of the lesions that are shown.
        counts: kind -> lesions of all cases.
        shown: kind -> lesions that have a card.
        too_small: how many of all lesions lie below the volume limit of the scorer.
    """
    total, drawn = sum(counts.values()), sum(shown.values())
    if total == 0:
        return piece("lesions", "No lesion in any reference or prediction.", (), ())
    parts = ", ".join(
        f"{shown[kind]} of {counts[kind]} {KINDS[kind].lower()}" for kind in KINDS if counts[kind]
    )
    text = (
        f"{counted(total, 'lesion')}, all shown ({parts})."
        if drawn == total
        else f"{drawn} of {total} lesions are shown: {parts}; large ones and mistakes first."
    )
    if too_small:
        text += f" {too_small} of the {total} are too small to count in the figures above."
    buttons = [(kind, f"{KINDS[kind]} ({shown[kind]})") for kind in KINDS if shown[kind]]
    return piece("lesions", text, buttons, cards)


def lesion_card(
    kind: str,
    case: str,
    why: str,
    facts: Mapping[str, object],
    picture: str | None,
    locator: str | None,
    steps: str | None,
) -> Markup:
    """Card of one lesion with its facts and pictures."""
    title = KINDS[kind]
    return piece(
        "lesion_card",
        kind,
        title,
        case,
        why,
        facts,
        picture,
        locator,
        steps,
        COLUMNS,
        tuple(PLANES),
    )


DASH = "\u2013"
"""Text of undefined measures."""

# Words of the field in the form people write them.
_WORDS = {"f1": "F1", "mm3": "mm³", "mm": "mm", "ppvl": "PPVL", "id": "ID", "doi": "DOI"}


def _label(name: str) -> str:
    words = [_WORDS.get(word.lower(), word) for word in name.replace("_", " ").split()]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def _shown(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value:
            return DASH
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_shown(part) for part in value)
    return str(value)
