"""The pieces of a report's page, as HTML that needs nothing from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from msseg_lightning.core.wording import counted, reported_text
from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.report.curves import curve_panels
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
"""Names this package in its pages, which may be written again."""


def document(title: str, sections: Sequence[str], policy: str = POLICY) -> str:
    """The whole file; ``policy`` is what its browser allows."""
    assets = resources.files("msseg_lightning.report")
    style = assets.joinpath("report.css").read_text(encoding="utf-8")
    script = assets.joinpath("report.js").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{GENERATOR}"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main><script>\n{script}</script></body></html>\n"
    )


def header(card: Mapping[str, Any], setting: Mapping[str, object], notes: Sequence[str]) -> str:
    """Name, idea, paper, how it was run, and what it must not be used for."""
    name = escape(str(card.get("name") or setting.get("experiment") or "Report"))
    idea = f'<p class="idea">{escape(str(card["idea"]))}</p>' if card.get("idea") else ""
    paper = " · ".join(escape(str(card[key])) for key in ("paper", "doi") if card.get(key))
    departures = card.get("departures") or ()
    lists = ""
    if departures:
        lists += _listed("Known differences from the paper", [str(item) for item in departures])
    if card.get("reported"):
        values = [
            f"{_label(key)}: {reported_text(value)}" for key, value in card["reported"].items()
        ]
        lists += _listed("Reported in the paper", values)
    if notes:
        lists += f'<div class="notes">{_listed("To be known", list(notes), is_open=True)}</div>'
    return (
        '<header><p class="warning">Research use only. Not a medical device: nothing here may '
        f"guide the care of a patient.</p>\n<h1>{name}</h1>{idea}"
        f'<p class="paper">{paper}</p>{_facts(setting, "setting")}{lists}</header>'
    )


def _facts(facts: Mapping[str, object], kind: str) -> str:
    rows = "".join(
        f"<div><dt>{escape(_label(str(name)))}</dt><dd>{escape(_shown(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None and value != ""
    )
    return f'<dl class="{kind}">{rows}</dl>'


def _listed(title: str, items: Sequence[str], is_open: bool = False) -> str:
    entries = "".join(f"<li>{escape(item)}</li>" for item in items)
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{escape(title)}</summary><ul>{entries}</ul></details>"


def headline(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The two groups of cases side by side, never mixed."""
    blocks = []
    for group, measures in summary.items():
        title, subtitle = GROUPS.get(group, (_label(group), ""))
        if measures.get("cases") is not None:
            title = f"{title}: {measures['cases']}"
        tiles = "".join(_tile(name, value) for name, value in measures.items() if name != "cases")
        blocks.append(
            f'<div class="group"><h3>{escape(title)}</h3><p>{escape(subtitle)}</p>'
            f'<div class="tiles">{tiles}</div></div>'
        )
    if not blocks:
        return ""
    return f'<section><h2>Results</h2><div class="groups">{"".join(blocks)}</div></section>'


def _tile(name: str, value: Any) -> str:
    interval = ""
    if isinstance(value, Mapping):
        if value.get("low") is not None and value.get("high") is not None:
            bounds = f"{_shown(value['low'])} to {_shown(value['high'])}"
            interval = f"<small>{escape(bounds)}</small>"
        value = value.get("mean", value.get("value"))
    return (
        f'<div class="tile"><b>{escape(_shown(value))}</b>{interval}'
        f"<span>{escape(_label(name))}</span></div>"
    )


def curves(rows: Sequence[Mapping[str, Any]], kept_step: int | None = None) -> str:
    """Learning curves, one panel per measure; the step of the kept weights is marked."""
    panels = curve_panels(rows, kept_step)
    if not panels:
        return ""
    return f'<section><h2>Learning curves</h2><div class="curves">{"".join(panels)}</div></section>'


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


def case_table(cases: Sequence[tuple[str, CaseScore | None]]) -> str:
    """A row per case; a click on a heading sorts."""
    scored = [(case, score) for case, score in cases if score is not None]
    if not scored:
        return ""
    heads = "".join(
        f'<th scope="col" title="{escape(why)}"><button type="button">{escape(name)}</button></th>'
        for name, why in CASE_COLUMNS
    )
    rows = "".join(_case_row(case, score) for case, score in scored)
    return (
        f"<section><h2>Cases</h2><p>{counted(len(scored), 'case')}. A dash is a measure without a "
        'value. Click a heading to sort.</p><div class="scroll"><table class="sortable">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _case_row(case: str, score: CaseScore) -> str:
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
    group = "with" if score.has_new_lesions else "without"
    cells = "".join(
        f'<td data-value="{value}">{value:{form}}</td>'
        if value is not None and math.isfinite(value)
        else '<td data-value="">–</td>'  # noqa: RUF001 - a dash
        for value, form in numbers
    )
    return f'<tr><th scope="row">{escape(case)}</th><td>{group}</td>{cells}</tr>'


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that sorts by a click; numbers as numbers."""
    head = "".join(
        f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in heads
    )
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_text_cell, rest))}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _text_cell(text: str) -> str:
    number = text.split(" ")[0].replace(",", "")  # of "0.61 [0.50, 0.70]" the first
    if re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", number):  # float() takes "infinity" too
        value = f' data-value="{float(number)}"'
    else:
        value = "" if text else ' data-value=""'
    return f"<td{value}>{escape(text)}</td>"


def lesions(cards: Sequence[str], counts: Mapping[str, int], shown: Mapping[str, int]) -> str:
    """All cards, with buttons that show one kind only and the number left out."""
    total, drawn = sum(counts.values()), sum(shown.values())
    if total == 0:
        return "<section><h2>Lesions</h2><p>No lesion in any reference or prediction.</p></section>"
    parts = ", ".join(
        f"{shown[kind]} of {counts[kind]} {KINDS[kind].lower()}" for kind in KINDS if counts[kind]
    )
    said = (
        f"{counted(total, 'lesion')}, all shown ({parts})."
        if drawn == total
        else f"{drawn} of {total} lesions are shown: {parts}; large ones and mistakes first."
    )
    buttons = '<button type="button" data-kind="all" class="chosen">All</button>' + "".join(
        f'<button type="button" data-kind="{kind}">{KINDS[kind]} ({shown[kind]})</button>'
        for kind in KINDS
        if shown[kind]
    )
    return (
        f'<section id="lesions"><h2>Lesions</h2><p>{said}</p>{legend()}'
        f'<p class="filter">{buttons}</p>{"".join(cards)}</section>'
    )


def legend() -> str:
    """What the colours mean."""
    return (
        '<p class="legend"><i class="reference"></i>reference '
        '<i class="prediction"></i>prediction <i class="overlap"></i>both '
        '<i class="brighter"></i>brighter at follow-up <i class="darker"></i>darker at follow-up'
        "</p>"
    )


def lesion_card(
    kind: str,
    case: str,
    why: str,
    facts: Mapping[str, object],
    picture: str | None,
    locator: str | None,
) -> str:
    """One lesion: what it is, where it is, and both visits in three planes."""
    title = KINDS[kind]
    left = (
        f'<h3><span class="badge {kind}">{title}</span> {escape(case)}</h3>'
        f'<p class="why">{escape(why)}</p>{_facts(facts, "facts")}'
    )
    if locator:
        left += f'<img class="locator" alt="Place in the brain" src="{locator}">'
    if picture is None:
        right = '<p class="nopicture">No picture: without a brain mask a scan shows a face.</p>'
    else:
        columns = "".join(f"<span>{column}</span>" for column in COLUMNS)
        planes = "".join(f"<span>{plane}</span>" for plane in PLANES)
        alternative = (
            f"{title} lesion of {case}: {', '.join(COLUMNS).lower()} in {', '.join(PLANES)} planes"
        )
        right = (
            f'<div class="columns">{columns}</div><div class="planes">{planes}</div>'
            f'<img alt="{escape(alternative)}" src="{picture}">'
        )
    return (
        f'<article class="lesion" data-kind="{kind}" data-case="{escape(case)}">'
        f'<div class="about">{left}</div><div class="views">{right}</div></article>'
    )


def how_to_read() -> str:
    """Conventions of the pictures and of the words."""
    items = (
        "Radiological convention: the patient's right (R) is on the left of axial and coronal "
        "pictures, anterior (A) on the left of sagittal ones. Letters are computed from the "
        "scan's orientation, and pictures follow the edges of its grid.",
        "Both visits are scaled by the median and interquartile range of their own brain and "
        "share one grey window. The difference is follow-up minus baseline; its colours saturate "
        "at 3 interquartile ranges.",
        "Each picture is 60 mm wide and shows the slice with the largest area of the lesion. The "
        "reference is a line around its voxels, the prediction a line inside its voxels, so that "
        "neither hides the other.",
        "Only voxels inside the brain mask are shown, because a head scan shows a face.",
        "The rule of the challenge's official scorer says what is found and what is false. A "
        "lesion is matched if more than 10 % of it is covered by lesions of the other mask and "
        "those that make up most of the cover (65 %, the largest first) lie by no more than 70 % "
        "of their own size outside all lesions of its mask. True and predicted lesions are asked "
        "one by one: a true lesion may be found while the prediction over it is false. Lesions "
        "below the volume limit do not count.",
    )
    return (
        "<section><h2>How to read the pictures</h2><ul>"
        + "".join(f"<li>{escape(item)}</li>" for item in items)
        + "</ul></section>"
    )


# Words of the field in the form people write them.
_WORDS = {"f1": "F1", "mm3": "mm³", "mm": "mm", "ppvl": "PPVL", "id": "ID", "doi": "DOI"}


def _label(name: str) -> str:
    words = [_WORDS.get(word.lower(), word) for word in name.replace("_", " ").split()]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def _shown(value: object) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - a dash
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value:
            return "–"  # noqa: RUF001 - a dash
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_shown(part) for part in value)
    return str(value)
