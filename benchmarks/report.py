"""Write the tables of a measurement into docs/performance.md.

    python -m benchmarks.report [FILE ...]     default: benchmarks/results/latest.json

Benchmarks that the files hold replace those of the page; the others stay as they were measured.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.__main__ import collect
from benchmarks.harness import ROOT, Row

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: python -m benchmarks.report -->", "<!-- end of table -->"


def sections(record: dict[str, Any]) -> dict[str, str]:
    """Benchmark -> its table, and where and when it was measured."""
    results = record["results"]
    if len(results) == 1:
        tables = {results[0]["benchmark"]: [Row(**entry) for entry in record["table"]]}
    else:
        tables = {result["benchmark"]: collect([result]) for result in results}
    return {name: f"{_table(rows)}\n\n{_origin(record)}" for name, rows in tables.items()}


def _table(rows: Sequence[Row]) -> str:
    lines = ["| work | ours | peer | ratio | limit | | note |", "|---|--:|--:|--:|---|---|---|"]
    for row in rows:
        verdict = f"**{row.verdict}**" if row.holds is False else row.verdict
        digits = ".1e" if row.ratio and abs(row.ratio) < 0.01 else ".2f"
        ratio = "" if row.ratio is None else f"{row.ratio:{digits}} x"
        cells = (row.name, _figure(row.ours, row), _figure(row.peer, row), ratio)
        lines.append("| " + " | ".join([*cells, row.limit, verdict, row.note]) + " |")
    return "\n".join(lines)


def summary(text: str) -> str:
    """How many limits of a page's tables hold."""
    verdicts = [line.split(" | ")[5] for line in text.splitlines() if line.startswith("| ")]
    held, short, missing = map(verdicts.count, ("holds", "**FALLS SHORT**", "not measured"))
    return f"{held} limits hold, {short} fall short, {missing} were not measured."


def _figure(value: float | None, row: Row) -> str:
    return "" if value is None else f"{value:.4g} {row.unit}"


def _origin(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v)
    changed = " with uncommitted changes" if record["changed"] else ""
    return (
        f"Measured {record['date'].replace('T', ' ')}, commit {record['commit']}{changed}, "
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
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    block, after = rest.split(END)
    found = dict(re.findall(r"^### (\S+)\n\n(.*?)\s*(?=^### |\Z)", block, re.DOTALL | re.MULTILINE))
    for file in files:
        found |= sections(json.loads(file.read_text(encoding="utf-8")))
    tables = "\n\n".join(f"### {name}\n\n{body}" for name, body in found.items())
    PAGE.write_text(
        f"{before}{BEGIN}\n{summary(tables)}\n\n{tables}\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
