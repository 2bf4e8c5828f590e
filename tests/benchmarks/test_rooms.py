"""Every benchmark has a place, and every printed command names one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
SHARED = {"__init__", "__main__", "harness", "report", "rows"}
SHORT_NAMES = {"paper_size"}
"""Commands of a study that are printed by a short name."""


def names(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / "benchmarks" / folder).glob("*.py")} - {"__init__"}


def test_the_command_runs_every_benchmark_of_speed():
    assert set(BENCHMARKS) == names("speed")


def test_benchmarks_lie_in_a_folder_of_their_kind():
    assert names(".") | {"__init__"} == SHARED | SHORT_NAMES
    assert names("studies") >= SHORT_NAMES
    assert names("studies") and names("scale")


def test_printed_commands_and_files_exist():
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.py"), ROOT / "Makefile"]
    texts = [page.read_text(encoding="utf-8") for page in [*pages, ROOT / "README.md"]]
    modules = {name for text in texts for name in re.findall(r"-m (benchmarks[.\w]*)", text)}
    files = {name for text in texts for name in re.findall(r"\bbenchmarks/[\w/]+\.py", text)}
    assert len(modules) > 10 and files
    assert not [name for name in modules if importlib.util.find_spec(name.rstrip(".")) is None]
    assert not [name for name in files if not (ROOT / name).exists()]


def test_a_page_speaks_of_every_study_and_every_test_of_scale():
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md"))
    for folder in ("studies", "scale"):
        for name in names(folder) - {"postgres"}:  # serves ``sweep`` and a test
            assert re.search(rf"benchmarks[./]{folder}[./]{name}\b", text), name
