"""Reader of CSV files with one row per pair."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import os.path
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.paths import refuse_name, resolve_file, shown
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import (
    ADJUDICATED,
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    CHANGE,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
    LongitudinalSubject,
)
from msseg_lightning.read.identity import shared_scans
from msseg_lightning.read.participants import FACT_COLUMNS, facts_of_row
from msseg_lightning.read.reader import check_id, check_ids, raise_errors, warnings_of
from msseg_lightning.read.unused import Unused, add_unnamed, looks_like_mask

REQUIRED = ("id", BASELINE, FOLLOWUP)
MASK_COLUMNS = (
    TARGET,
    *(f"{TARGET}_rater{number}" for number in range(1, 5)),
    ADJUDICATED,
    BRAIN,
    BASELINE_LESIONS,
    FOLLOWUP_LESIONS,
    CHANGE,
)
KNOWN = (*REQUIRED, "patient", *MASK_COLUMNS, *FACT_COLUMNS, "output")
LARGEST_TABLE_BYTES = 64_000_000
_FORMULA = ("=", "+", "@", "\t")


class TableReader:
    """Reads pairs that are listed in a CSV file.

    Columns: ``id``, ``baseline_flair``, ``followup_flair``; where wanted ``patient`` (default: the
    id), masks (``new_lesions``, ``new_lesions_rater1..4``, ``new_lesions_adjudicated``, ``brain``,
    ``baseline_lesions``, ``followup_lesions``, ``change``), facts (``sex``, ``age``, ``site``,
    ``vendor``, ``field_strength``, ``interval_days``) and ``output`` (for prediction). Relative
    paths count from the folder of the table, or from ``root``. Empty cells are absent files.
    Unknown columns are named in a warning.

    Args:
        manifest: the CSV file, comma-separated UTF-8.
        root: the folder all files must lie below. Without it, relative paths must stay below the
            table's folder and absolute paths are taken as they are.
        registered: both visits of each pair lie on one grid; others are refused.
        columns: one of the columns above -> how it is called in this table.

    Raises:
        MssegError: ``columns`` has a key that is none of the columns above (exit 2).
    """

    LAYOUT = """\
pairs.csv                     read=table read.manifest=pairs.csv
  id,baseline_flair,followup_flair,new_lesions,patient
  013,scans/013_a.nii.gz,scans/013_b.nii.gz,masks/013.nii.gz,MS-7
  014,scans/014_a.nii.gz,scans/014_b.nii.gz,,MS-8
new_lesions is the reference; an empty cell is an absent file; relative paths count from the table
optional columns: patient, new_lesions_rater1 .. 4, brain, baseline_lesions, followup_lesions,
change, sex, age, site, vendor, field_strength, interval_days, output
other names:  read.columns.new_lesions=mask, and so on for every column
"""

    def __init__(
        self,
        manifest: str | Path,
        root: str | Path | None = None,
        registered: bool = False,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        self.columns = {own: name for name, own in (columns or {}).items() if own is not None}
        if unknown := [name for name in columns or {} if name not in KNOWN]:
            raise MssegError(
                Problem(
                    "table.columns",
                    "a table has no such column",
                    field=f"read.columns.{unknown[0]}",
                    found=", ".join(unknown),
                    expected=", ".join(KNOWN),
                    remedy=f"leave read.columns.{unknown[0]} out",
                    exit_code=ExitCode.CONFIG,
                )
            )
        self.manifest = Path(manifest)
        self.root = None if root is None else Path(root)
        self.registered = registered
        self._warnings: list[Problem] = []

    def subjects(self) -> list[LongitudinalSubject]:
        """Every row as a pair, in order of the table.

        Raises:
            MssegError: with every problem of the table; ids and paths that lead out of the data
                root end with exit 6.
        """
        self._warnings = []
        name = self.manifest.name
        rows, problems = _rows(self.manifest, name, self.columns)
        self._warnings = warnings_of(problems)
        raise_errors(problems)
        found: list[LongitudinalSubject] = []
        lines: dict[str, list[int]] = {}
        for line, row in rows:
            where = f"{name}, line {line}"
            problems += _check_cells(row, where)
            identifier = row.get("id", "")
            lines.setdefault(identifier, []).append(line)
            problem = check_id(identifier, where)
            if problem is not None:
                problems.append(problem)
                continue
            try:
                found.append(self._subject(row, identifier, where))
            except MssegError as error:
                problems += error.problems
        if not rows:
            problems.append(
                Problem(
                    "table.empty",
                    "the table has no row",
                    file=name,
                    field="rows",
                    found="0",
                    expected="a row for each pair",
                    remedy="add the pairs",
                )
            )
        for identifier, places in lines.items():
            if len(places) > 1:
                problems.append(
                    Problem(
                        "id.twice",
                        "an id occurs twice",
                        file=name,
                        field="id",
                        found=f"{ascii(identifier)[1:-1][:64]} in lines "
                        + " and ".join(map(str, places)),
                        expected="distinct ids",
                        remedy="rename or remove one of them",
                    )
                )
        over_all = ("id.case", "patient.case", "patient.similar")
        problems += [problem for problem in check_ids(found, name) if problem.code in over_all]
        problems += [
            dataclasses.replace(
                problem, message=f"{problem.message}: training refuses them", severity="warning"
            )
            for problem in shared_scans(found, name)
        ]
        unused = Unused()
        add_unnamed(unused, self._root(), self._named(found))
        self._warnings = [*warnings_of(problems), *unused.problems()]
        raise_errors(problems)
        return found

    def _named(self, subjects: Sequence[LongitudinalSubject]) -> Iterator[Path]:
        for subject in subjects:
            yield from subject.images.values()
            yield from subject.masks.values()
        yield from (self.manifest.parent / path for path in self.outputs().values())

    def outputs(self) -> dict[str, Path]:
        """Id -> file in the column ``output``, where there is one; ``subjects`` comes first."""
        rows, _ = _rows(self.manifest, self.manifest.name, self.columns)
        return {row["id"]: Path(row["output"]) for _, row in rows if row.get("output")}

    def skipped(self) -> list[Problem]:
        """Warnings of the last call of ``subjects``, also on unused columns, cells and files."""
        return list(self._warnings)

    def order(self) -> list[str]:
        """Says that column names give the order of visits."""
        return [f"{BASELINE} before {FOLLOWUP} in every row (names of the columns)"]

    def _subject(self, row: Mapping[str, str], identifier: str, where: str) -> LongitudinalSubject:
        problems: list[Problem] = []
        paths: dict[str, Path] = {}
        for column in (BASELINE, FOLLOWUP, *MASK_COLUMNS):
            text = row.get(column, "")
            if not text:
                if column in REQUIRED:
                    problems.append(
                        Problem(
                            "table.cell",
                            "a cell is empty",
                            file=where,
                            field=column,
                            found="nothing",
                            expected="a path",
                            remedy="give the file",
                        )
                    )
                continue
            path, problem = self._path(text, where, column)
            if problem is not None:
                problems.append(problem)
            elif path is not None:
                paths[column] = path
        if BASELINE in paths and paths.get(BASELINE) == paths.get(FOLLOWUP):
            problems.append(
                Problem(
                    "pair.same_path",
                    "baseline and follow-up are the same file",
                    file=where,
                    field=FOLLOWUP,
                    found=shown(paths[FOLLOWUP], self._root()),
                    expected="two files",
                    remedy="give the second scan",
                )
            )
        patient = row.get("patient") or identifier
        problem = check_id(patient, where)
        if problem is not None:
            problems.append(problem)
        if problems:
            raise MssegError(problems)
        return LongitudinalSubject(
            id=identifier,
            patient=patient,
            images={name: paths[name] for name in (BASELINE, FOLLOWUP)},
            masks={name: paths[name] for name in MASK_COLUMNS if name in paths},
            facts=facts_of_row(row, where),
            root=self.root,
            registered=self.registered,
        )

    def _root(self) -> Path:
        return self.root if self.root is not None else self.manifest.parent

    def _path(self, text: str, where: str, column: str) -> tuple[Path | None, Problem | None]:
        path = Path(text)
        problem = refuse_name(path)
        if problem is not None:
            return None, problem
        escapes = ".." in path.parts or (path.is_absolute() and self.root is not None)
        if escapes:
            root = self._root().absolute()
            if not Path(os.path.normpath(root / path)).is_relative_to(os.path.normpath(root)):
                return None, Problem(
                    "path.outside",
                    "the path leads out of the data root",
                    file=where,
                    field=column,
                    found=ascii(text)[1:-1][:80],
                    expected="a path below the root",
                    exit_code=ExitCode.SECURITY,
                    remedy="read.root=null, or read.root=FOLDER with a folder above all files"
                    if path.is_absolute()
                    else "give the path in full, and leave read.root out",
                )
        return self._root() / path, None


def _rows(
    path: Path, name: str, columns: Mapping[str, str]
) -> tuple[list[tuple[int, dict[str, str]]], list[Problem]]:
    """Rows with line numbers, and problems of the table as a whole.

    Args:
        path: the table.
        name: shown in messages.
        columns: column of the table -> our name of it.
    """
    real = resolve_file(path)
    if real.stat().st_size > LARGEST_TABLE_BYTES:
        return [], [
            Problem(
                "table.too_large",
                "the table is larger than the limit",
                file=name,
                field="file size",
                found=f"{real.stat().st_size} bytes",
                expected=f"at most {LARGEST_TABLE_BYTES} bytes",
                remedy="check the file",
            )
        ]
    data = real.read_bytes()
    encoding = _foreign_encoding(data)
    if encoding:
        return [], [
            Problem(
                "table.encoding",
                "not UTF-8",
                file=name,
                field="encoding",
                found=encoding,
                expected="UTF-8, with or without mark",
                remedy="save the table as UTF-8",
            )
        ]
    text = data.decode("utf-8-sig")
    if "\0" in text:
        return [], [
            Problem(
                "table.character",
                "the table holds a NUL",
                file=name,
                field="text",
                found="\\0",
                expected="text",
                remedy="remove it",
            )
        ]
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [(column or "").strip() for column in reader.fieldnames or []]
        absent = [
            _column_missing(
                own, f"read.columns.{ours}=NAME with a column of this table", header, name
            )
            for own, ours in columns.items()
            if own not in header
        ]
        header = [columns.get(column, column) for column in header]
        problems = [*absent, *_check_header(header, name)]
        reader.fieldnames = header
        sound = not any(problem.severity == "error" for problem in problems)
        rows = []
        for cells in reader if sound else ():
            problems += _check_length(cells, header, f"{name}, line {reader.line_num}")
            row = {key: (value or "").strip(" ") for key, value in cells.items() if key}
            rows.append((reader.line_num, row))
    except csv.Error:
        return [], [
            Problem(
                "table.csv",
                "not a CSV file",
                file=name,
                field=f"line {reader.line_num}",
                found="unbalanced quotes or a binary file",
                expected="comma-separated text",
                remedy="save the table as CSV",
            )
        ]
    return rows, problems


def _foreign_encoding(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "another encoding, perhaps Latin-1"
    return ""


def _check_header(header: list[str], name: str) -> Iterator[Problem]:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        mark = ";" if ";" in header[0] else "a tab"
        yield Problem(
            "table.separator",
            "the columns are not separated by commas",
            file=name,
            field="separator",
            found=mark,
            expected=",",
            remedy="save the table with commas",
        )
        return
    for column in REQUIRED:
        if column not in header:
            near = difflib.get_close_matches(column, header, n=1)
            remedy = (
                f"read.columns.{column}={near[0]}"
                if near
                else (f"read.columns.{column}=NAME with its name in this table, or add the column")
            )
            yield _column_missing(column, remedy, header, name)
    for column in header:
        if header.count(column) > 1:
            yield Problem(
                "table.column_twice",
                "a column occurs twice",
                file=name,
                field=column,
                found=column,
                expected="distinct columns",
                remedy="remove one of them",
            )
            return
        if column not in KNOWN:
            near = difflib.get_close_matches(column, KNOWN, n=1)
            text = ascii(column)[1:-1][:40]
            if near:
                remedy = f"did you mean {near[0]}? read.columns.{near[0]}={text}"
            elif looks_like_mask(column) and TARGET not in header:
                remedy = (
                    f"if it holds masks of new lesions: read.columns.{TARGET}={text}; "
                    "`msseg check read=table --layout` shows every column"
                )
            else:
                remedy = "nothing to do"
            yield Problem(
                "table.unknown_column",
                "this column is not known and was ignored",
                file=name,
                field=text,
                found=text,
                expected=near[0] if near else "a known column",
                remedy=remedy,
                severity="warning",
            )


def _column_missing(column: str, remedy: str, header: Sequence[str], name: str) -> Problem:
    near = difflib.get_close_matches(column, header, n=1)
    return Problem(
        "table.column",
        "a column is missing",
        file=name,
        field=column,
        found=f"{near[0]}?" if near else ", ".join(header[:8]) or "no header",
        expected=", ".join(REQUIRED),
        remedy=remedy,
    )


def _check_length(
    cells: Mapping[str | None, Any], header: Sequence[str], where: str
) -> Iterator[Problem]:
    """Check that a row has as many cells as there are columns."""
    surplus = [cell for cell in cells.get(None) or () if cell.strip()]
    missing = [column for column in header if cells.get(column) is None]
    if surplus or missing:
        yield Problem(
            "table.cells",
            "the row has more cells than there are columns"
            if surplus
            else "the row has fewer cells than there are columns; the others count as empty",
            file=where,
            field="cells",
            found=", ".join(ascii(cell)[1:-1][:40] for cell in surplus)
            or f"nothing for {', '.join(missing)}",
            expected=f"{len(header)} cells",
            remedy="put cells that hold a comma in double quotes, or remove the last cells"
            if surplus
            else "add the commas, or nothing to do",
            severity="error" if surplus else "warning",
        )


def _check_cells(row: Mapping[str, str], where: str) -> Iterator[Problem]:
    for column, value in row.items():
        control = any(ord(letter) < 32 or ord(letter) == 127 for letter in value)
        if control or value.startswith(_FORMULA):
            yield Problem(
                "table.character",
                "the cell holds a control character or a formula",
                file=where,
                field=column,
                found=ascii(value)[1:-1][:40],
                expected="plain text",
                remedy="correct the cell",
            )
        elif len(value) > 4096:
            yield Problem(
                "table.length",
                "the cell is too long",
                file=where,
                field=column,
                found=f"{len(value)} characters",
                expected="at most 4096",
                remedy="correct the cell",
            )
