"""Reading of sex, age, site, vendor, field strength and interval from ``participants.tsv``."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msseg_lightning.core.paths import resolve_file, shown
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import Facts
from msseg_lightning.read.identity import folded, match
from msseg_lightning.read.unused import Unused

OLDEST_AGE_YEARS = 90.0
"""Higher ages are stored as 90, since rare ages identify a person."""

_NUMBERS = {
    "age": "age_years",
    "age_years": "age_years",
    "field_strength": "field_strength_t",
    "field_strength_t": "field_strength_t",
    "interval_days": "interval_days",
}
_WORDS = {"sex": "sex", "site": "site", "vendor": "vendor"}
FACT_COLUMNS = (*_NUMBERS, *_WORDS)
_SIMULATED = (
    "part",
    "condition",
    "followup_site",
    "followup_vendor",
    "followup_field_strength",
)
"""Further columns that ``simulate`` writes."""
_UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown", "missing", "nd", "-", ".", "?"}
_UNITS = {
    "age_years": r"y|yr|yrs|years?",
    "field_strength_t": r"t|tesla",
    "interval_days": r"d|days?",
}
_PLAUSIBLE = {"age_years": (0.0, 125.0), "field_strength_t": (0.0, 30.0)}


def facts_of_row(row: Mapping[str, str | None], where: str) -> Facts:
    """Facts of one row of a table; unknown cells stay None.

    Numbers may carry the unit of their column (``45Y``, ``3T``); an age may be open (``89+``, as
    BIDS recommends for rare ages) and is then the highest that is kept.

    Raises:
        MssegError: a number that is none, or is impossible.
    """
    found, problems = _facts_of_row(row, where)
    if problems:
        raise MssegError(problems)
    return found


def _facts_of_row(row: Mapping[str, str | None], where: str) -> tuple[Facts, list[Problem]]:
    found: dict[str, str | float] = {}
    problems = []
    for column, field in {**_NUMBERS, **_WORDS}.items():
        text = (row.get(column) or "").strip()
        if text.lower() in _UNKNOWN:
            continue
        if column in _WORDS:
            found[field] = text[:64]
            continue
        number = _number(text, field)
        low, high = _PLAUSIBLE.get(field, (-math.inf, math.inf))
        if not math.isfinite(number) or not low <= number <= high:
            problems.append(
                Problem(
                    "table.number",
                    "this cell should hold a number",
                    file=where,
                    field=column,
                    found=ascii(text)[1:-1][:40],
                    expected="a number or n/a"
                    + (f", {low:g} to {high:g}" if math.isfinite(low) else ""),
                    remedy="correct the cell",
                )
            )
            continue
        found[field] = min(number, OLDEST_AGE_YEARS) if field == "age_years" else number
    return Facts(**found), problems  # type: ignore[arg-type]  # fields sorted by type above


def _number(text: str, field: str) -> float:
    """The number of a cell; NaN where it holds none."""
    text = re.sub(rf"\s*({_UNITS[field]})$", "", text.strip().casefold())
    if field == "age_years" and (
        match := re.fullmatch(r"(?:(\d+)\s*\+|(?:>=?|over)\s*(\d+))", text)
    ):
        years = float(match[1] or match[2])
        return OLDEST_AGE_YEARS if years >= OLDEST_AGE_YEARS - 1 else math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclasses.dataclass
class Participants:
    """Rows of a ``participants.tsv``, with warnings on what was not used.

    Args:
        name: of the file as shown.
        facts: by id as written in the table.
        problems: rows that could not be used, as warnings.
        columns: those that are not known.
    """

    name: str
    facts: dict[str, Facts] = dataclasses.field(default_factory=dict)
    problems: Sequence[Problem] = ()
    columns: Sequence[str] = ()

    def assign(
        self, patients: Collection[str], unused: Unused, left_out: Collection[str] = ()
    ) -> tuple[dict[str, Facts], list[Problem]]:
        """Facts by patient; patients without a row are absent.

        Ids are compared as in :func:`msseg_lightning.read.identity.match`.

        Args:
            patients: ids of those who are used.
            left_out: ids of those who are not; their rows are no findings.
            unused: where rows and columns that belong to nothing are counted.

        Returns:
            Patient -> facts, and warnings: ids that were matched though written differently,
            patients without a row, rows that could not be used.
        """
        found, strange = match(self.facts, [*patients, *left_out])
        for row in strange:
            unused.add("row", "participant_id", f"{self.name}, {ascii(row)[1:-1][:64]}")
        for column in self.columns:
            unused.add("column", column, self.name)
        problems = list(self.problems)
        loose = [(row, name) for name, row in found.items() if folded(row) != folded(name)]
        if loose:
            row, name = loose[0]
            problems.append(
                self._warning(
                    "table.id_form",
                    "ids are written in another form than in the data; they were matched",
                    f"{len(loose)}, e.g. {row} for {name}",
                    "the ids of the data",
                    "write them as the data, or nothing to do",
                )
            )
        without = [name for name in patients if name not in found]
        if self.facts and without:
            problems.append(
                self._warning(
                    "table.no_row",
                    "patients have no row: nothing is known of them",
                    f"{len(without)}, e.g. {', '.join(without[:3])}",
                    "a row for each patient",
                    "add the rows, or nothing to do",
                )
            )
        return {name: self.facts[row] for name, row in found.items()}, problems

    def _warning(self, code: str, message: str, found: str, expected: str, remedy: str) -> Problem:
        return Problem(
            code,
            message,
            file=self.name,
            field="participant_id",
            found=found,
            expected=expected,
            remedy=remedy,
            severity="warning",
        )


def read_participants(path: Path, root: Path | None = None) -> Participants:
    """Read facts by ``participant_id``; empty if the file is absent.

    Raises:
        MssegError: not a tab-separated table with that column, or bad numbers.
    """
    name = shown(path, root)
    if not path.exists():
        return Participants(name)
    rows = read_tsv(path, "participant_id", root)
    facts: dict[str, Facts] = {}
    problems: list[Problem] = []
    wrong: list[Problem] = []
    doubled: dict[str, None] = {}
    for line, row in rows:
        identifier = row["participant_id"]
        known, found = _facts_of_row(row, f"{name}, line {line}")
        wrong += found
        if facts.setdefault(identifier, known) != known:
            doubled[identifier] = None
    if wrong:
        raise MssegError(wrong)
    for identifier in doubled:
        facts[identifier] = Facts()
        problems.append(
            Problem(
                "table.id_twice",
                "a participant has two rows that differ: nothing is taken from them",
                file=name,
                field="participant_id",
                found=ascii(identifier)[1:-1][:64],
                expected="one row for each participant",
                remedy="remove the one that is wrong",
                severity="warning",
            )
        )
    columns = [
        column
        for column in (rows[0][1] if rows else {})
        if column not in ("participant_id", *FACT_COLUMNS, *_SIMULATED)
    ]
    return Participants(name, facts, problems, columns)


def read_tsv(
    path: Path, identifier: str, root: Path | None = None
) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a TSV table of BIDS that have an identifier, with line numbers.

    Column names count in lower case; surrounding blanks are taken away.

    Raises:
        MssegError: not UTF-8, or without the column.
    """
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
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", restkey="")
    header = [column.strip().lower() for column in rows.fieldnames or ()]
    if identifier not in header:
        raise MssegError(
            Problem(
                "table.column",
                "a column is missing",
                file=name,
                field=identifier,
                found=", ".join(header[:6]),
                expected=f"tab-separated columns with {identifier}",
                remedy="add the column, or save with tabs",
            )
        )
    rows.fieldnames = header
    cleaned = ({key: (value or "").strip() for key, value in row.items() if key} for row in rows)
    return [(line, row) for line, row in enumerate(cleaned, start=2) if row[identifier]]
