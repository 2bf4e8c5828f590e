"""The architecture is what the documentation says it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from msseg_lightning.run.cards import REQUIRED, read_cards
from msseg_lightning.run.compose import conf_dir, experiments_dir

PACKAGE = Path(__file__).parents[1] / "msseg_lightning"
TESTS = Path(__file__).parent

MODULES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


def tested(module: Path) -> bool:
    """A module has its mirror, or a test of the same step names it by import."""
    if (TESTS / module.parent / f"test_{module.name}").exists():
        return True
    dotted = "msseg_lightning." + ".".join(module.with_suffix("").parts)
    folder = TESTS / module.parent
    sources = [*folder.glob("*.py"), TESTS / "test_experiments.py"]
    return any(
        re.search(rf"\b{re.escape(dotted)}\b", source.read_text(encoding="utf-8"))
        for source in sources
    )


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_is_tested_in_its_step(module):
    assert tested(module), f"no test under tests/{module.parent} imports {module}"


def test_no_module_is_a_drawer_for_everything():
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "common", "misc")]


def test_packages_are_empty():
    assert not [path for path in PACKAGE.rglob("*/__init__.py") if path.read_text().strip()]


@pytest.mark.parametrize("card", read_cards(), ids=lambda card: card["name"])
def test_every_card_is_complete(card):
    assert not [key for key in REQUIRED if key not in card]
    assert re.fullmatch(r"S\d\d[a-z]?x?", card["id"])


def test_the_file_of_an_experiment_bears_its_name():
    for path in experiments_dir().glob("*.yaml"):
        assert f"\nname: {path.stem}" in path.read_text(encoding="utf-8")


def test_every_config_group_is_a_step():
    steps = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {"split"}
    assert {path.name for path in conf_dir().iterdir() if path.is_dir()} <= steps
