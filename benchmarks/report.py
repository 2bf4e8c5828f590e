"""Write the table of a measurement into docs/performance.md.

    python -m benchmarks.report [FILE ...]     default: benchmarks/results/latest.json

Several files (of ``--only`` runs) make one table, in the order given.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Row

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: python -m benchmarks.report -->", "<!-- end of table -->"


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Table and provenance of one or several records."""
    lines = ["| work | ours | peer | ratio | limit | | note |", "|---|--:|--:|--:|---|---|---|"]
    for record in records:
        for entry in record["table"]:
            row = Row(**entry)
            verdict = f"**{row.verdict}**" if row.holds is False else row.verdict
            digits = ".1e" if row.ratio and abs(row.ratio) < 0.01 else ".2f"
            ratio = "" if row.ratio is None else f"{row.ratio:{digits}} x"
            cells = (row.name, _figure(row.ours, row), _figure(row.peer, row), ratio)
            lines.append("| " + " | ".join([*cells, row.limit, verdict, row.note]) + " |")
    rows = [entry for record in records for entry in record["table"]]
    held = sum(entry["holds"] is True for entry in rows)
    short = sum(entry["holds"] is False for entry in rows)
    missing = sum(entry["holds"] is None and bool(entry["limit"]) for entry in rows)
    summary = f"{held} limits hold, {short} fall short, {missing} were not measured."
    return "\n".join([*lines, "", summary, "", *(_origin(record) for record in records)])


def _figure(value: float | None, row: Row) -> str:
    return "" if value is None else f"{value:.4g} {row.unit}"


def _origin(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v)
    names = ", ".join(result["benchmark"] for result in record["results"])
    changed = " with uncommitted changes" if record["changed"] else ""
    return (
        f"- {names}: {record['date'].replace('T', ' ')}, commit {record['commit']}{changed}, "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load "
        f"{machine['load']} at the start; Python {record['python']}, {versions}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    files = options.files or [ROOT / "benchmarks" / "results" / "latest.json"]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    page = PAGE.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{markdown(records)}\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: block, page), encoding="utf-8")


if __name__ == "__main__":
    main()
