"""The page on reliability lists every item of the catalogue, and its tests exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import RELIABILITY, reliability_tests

ROOT = Path(__file__).parents[1]
COUNTS = {"D": 34, "C": 22, "K": 15, "R": 14, "F": 30}
NOT_MET = {"F15"}
"""Items without a test; the page says why."""


def test_every_item_has_a_row_with_a_test_or_the_reason():
    rows = reliability_tests()
    wanted = {f"{group}{n:02d}" for group, count in COUNTS.items() for n in range(1, count + 1)}
    wanted |= {f"attack {letter}" for letter in "ABCDEFGHI"}
    assert set(rows) == wanted
    without = {item for item, tests in rows.items() if not tests}
    assert without == NOT_MET
    text = RELIABILITY.read_text(encoding="utf-8")
    assert all(re.search(rf"\| {item} \|[^|]*not met", text) for item in NOT_MET)
    assert len(re.findall(r"^\| \d+ \|", text, re.MULTILINE)) == 26


def test_every_named_test_exists():
    text = RELIABILITY.read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text))
    assert len(named) > 100
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (ROOT / file).is_file() or f"\ndef {name}(" not in (ROOT / file).read_text()
    ]
    assert not missing


def test_the_markers_are_those_of_the_page(request):
    session = {item.nodeid.partition("[")[0]: item for item in request.session.items}
    for item, tests in reliability_tests().items():
        marker = "faults" if item.startswith("F") else "badinput"
        for test in tests:
            if item[0] in "CDKRF" and test in session:
                assert session[test].get_closest_marker(marker), (item, test)
