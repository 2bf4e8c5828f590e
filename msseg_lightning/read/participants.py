"""Sex, age, site, vendor, field strength and interval from a ``participants.tsv``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import Facts
from msseg_lightning.read.paths import resolve_file, shown

OLDEST_AGE_YEARS = 90.0
"""Higher ages are kept as 90: rare ages identify."""

_NUMBERS = {
    "age": "age_years",
    "age_years": "age_years",
    "field_strength": "field_strength_t",
    "field_strength_t": "field_strength_t",
    "interval_days": "interval_days",
}
_WORDS = {"sex": "sex", "site": "site", "vendor": "vendor"}
FACT_COLUMNS = (*_NUMBERS, *_WORDS)
_UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown"}


def facts_of_row(row: Mapping[str, str | None], where: str) -> Facts:
    """Facts of one row of a table; unknown cells stay None.

    Raises:
        MssegError: a number that is none.
    """
    found: dict[str, str | float] = {}
    problems = []
    for column, field in {**_NUMBERS, **_WORDS}.items():
        text = (row.get(column) or "").strip()
        if text.lower() in _UNKNOWN:
            continue
        if column in _WORDS:
            found[field] = text[:64]
            continue
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            problems.append(
                Problem(
                    "table.number",
                    "this cell should hold a number",
                    file=where,
                    field=column,
                    found=ascii(text)[1:-1][:40],
                    expected="a number or n/a",
                    remedy="correct the cell",
                )
            )
            continue
        found[field] = min(number, OLDEST_AGE_YEARS) if field == "age_years" else number
    if problems:
        raise MssegError(problems)
    return Facts(**found)  # type: ignore[arg-type]  # fields sorted by type above


def read_participants(path: Path, root: Path | None = None) -> dict[str, Facts]:
    """Facts by ``participant_id``; empty where the file is absent.

    Raises:
        MssegError: not a tab-separated table with that column, or bad numbers.
    """
    if not path.exists():
        return {}
    name = shown(path, root)
    try:
        text = resolve_file(path, root).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise MssegError(
            Problem(
                "table.encoding",
                "not UTF-8",
                file=name,
                field="encoding",
                found="another encoding",
                expected="UTF-8",
                remedy="save it as UTF-8",
            )
        ) from None
    rows = csv.DictReader(io.StringIO(text), delimiter="\t")
    if "participant_id" not in (rows.fieldnames or ()):
        raise MssegError(
            Problem(
                "table.column",
                "a column is missing",
                file=name,
                field="participant_id",
                found=", ".join(map(str, (rows.fieldnames or ())[:6])),
                expected="tab-separated columns with participant_id",
                remedy="add the column, or save with tabs",
            )
        )
    return {
        row["participant_id"]: facts_of_row(row, f"{name}, line {line}")
        for line, row in enumerate(rows, start=2)
        if row["participant_id"]
    }
