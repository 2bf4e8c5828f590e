"""Conversion of results of benchmarks to rows with limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Row

LIMIT = re.compile(r"\s*\(limit ([\d.]+)( at most)?\)")


def rows_of(result: Mapping[str, Any]) -> list[Row]:
    """Rows of one result.

    A benchmark gives ``rows`` of its own, or per-contender ``rows`` with ``ratios`` whose names end
    in ``(limit 7)`` or ``(limit 1.15 at most)``, or ``cases`` with ``limits``.
    """
    name = str(result["benchmark"])
    if "cases" in result:
        return _from_cases(result)
    if "ratios" in result:
        return [_from_ratio(name, what, value, result) for what, value in result["ratios"].items()]
    return [Row(**row) for row in result["rows"]]


def _from_ratio(benchmark: str, what: str, value: float | None, result: Mapping[str, Any]) -> Row:
    found = LIMIT.search(what)
    title = f"{benchmark}, {LIMIT.sub('', what)}"
    note = "peer absent" if value is None else _spread(result)
    if found is None:
        return Row(title, None, None, value, "", "", None, note)
    limit = float(found[1])
    if found[2]:
        holds = None if value is None else value <= limit
        return Row(title, None, None, value, f"<= {limit:g} x", "", holds, note)
    holds = None if value is None else value >= limit
    return Row(title, None, None, value, f">= {limit:g} x", "", holds, note)


def _spread(result: Mapping[str, Any]) -> str:
    ours = [row["spread"] for name, row in result["rows"].items() if name.startswith("ours")]
    return f"spread of ours {max(ours):.0%}" if ours else ""


def _from_cases(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for case in result["cases"]:
        place = f"{result['benchmark']} {case['size']}^3, {case['lesions']} lesions"
        by_name = {row["name"]: row for row in case["rows"]}
        ours = by_name["ours"]
        spread = f"spread {(ours['cpu_max_ms'] - ours['cpu_min_ms']) / ours['cpu_ms']:.0%}"
        limits = {entry["what"]: entry for entry in case["limits"]}
        for name, row in by_name.items():
            if name != "ours":
                limit = limits.pop(f"x {name}", None)
                rows.append(
                    Row.faster(
                        f"{place}, against {name}",
                        ours["cpu_ms"],
                        row["cpu_ms"],
                        None if limit is None else limit["limit"],
                        note=spread,
                    )
                )
        rows += [
            Row(
                f"{place}, against {entry['name']}",
                ours["cpu_ms"],
                None,
                None,
                "",
                "CPU ms",
                None,
                f"absent: {entry['reason']}",
            )
            for entry in case["absent"]
        ]
    return rows
