"""The architecture is what the documentation says it is."""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import Path

import pytest
import yaml

from msseg_lightning.run.config.cards import REQUIRED, read_cards
from msseg_lightning.run.config.preset_files import conf_dir, experiments_dir

PACKAGE = Path(__file__).parents[1] / "msseg_lightning"
TESTS = Path(__file__).parent

MODULES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


ACROSS = {
    "run/test_distributed.py": "one experiment by several processes, through every room of run",
    "run/test_own_files.py": "damage to each file that any module of run reads again",
}
"""Test files that belong to no single module."""

FOLDERS_OF_THEIR_OWN = ("benchmarks", "remedies", "systems")
"""They mirror ``benchmarks/``, the refusals of the package and ``experiments/``."""


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_test(module):
    """``x/y.py`` is tested by ``tests/x/test_y.py``, which uses it.

    Packages (``__init__.py``) are empty, and what is started by ``python -m`` (``__main__.py``)
    only calls a function of another module.
    """
    test = TESTS / module.parent / f"test_{module.name}"
    assert test.is_file(), f"{module} has no {test.relative_to(TESTS.parent)}"
    source = test.read_text(encoding="utf-8")
    assert "\ndef test_" in source
    package = re.escape(".".join(("msseg_lightning", *module.parent.parts)))
    name = re.escape(module.stem)
    imported = rf"{package}\.{name}\b|from {package} import [^\n]*\b{name}\b"
    command = rf"main\(\[\s*\"{name}\"" if module.parent == Path("cli") else "$^"
    assert re.search(f"{imported}|{command}", source), f"{test.name} does not use {module}"


def test_every_test_has_its_module():
    found = {path.relative_to(TESTS) for path in TESTS.rglob("*/test_*.py")}
    found = {path for path in found if path.parts[0] not in FOLDERS_OF_THEIR_OWN}
    mirrors = {module.parent / f"test_{module.name}" for module in MODULES}
    assert {path.as_posix() for path in found - mirrors} == set(ACROSS)


def test_no_module_is_a_drawer_for_everything():
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "common", "misc")]


def test_packages_are_empty():
    assert not [path for path in PACKAGE.rglob("*/__init__.py") if path.read_text().strip()]


@pytest.mark.parametrize("card", read_cards(), ids=lambda card: card["name"])
def test_every_card_is_complete(card):
    assert not [key for key in REQUIRED if key not in card]
    assert re.fullmatch(r"S\d\d[a-z]?x?|P\d\d", card["id"])  # P: of this package, without a paper


def test_the_file_of_an_experiment_bears_its_name():
    for path in experiments_dir().glob("*.yaml"):
        assert f"\nname: {path.stem}" in path.read_text(encoding="utf-8")


def test_every_config_group_is_a_step():
    steps = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    steps |= {"search", "launcher", "sizes"}
    assert {path.name for path in conf_dir().iterdir() if path.is_dir()} <= steps


def written(path: Path) -> list[str]:
    """What a YAML file says, without comments and empty lines."""
    lines = (line.split(" #")[0].rstrip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def longest_repetition(one: Path, other: Path) -> int:
    """Lines in a row that two files have in common."""
    matcher = difflib.SequenceMatcher(None, written(one), written(other), autojunk=False)
    return max(block.size for block in matcher.get_matching_blocks())


def test_every_system_deals_patients_alike():
    """``fold=0`` holds out the same patients in every system; a paper's own split is a preset."""
    for path in sorted(experiments_dir().glob("*.yaml")):
        chosen = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = {group for line in chosen.get("defaults") or [] for group in dict(line)}
        assert "override /split" not in groups and "split" not in chosen, path.stem
        sizes = (chosen.get("sizes") or {}).values()
        assert not any(key.partition(".")[0] == "split" for size in sizes for key in size or {})


def test_experiments_share_presets_instead_of_lines():
    experiments = sorted(experiments_dir().glob("*.yaml"))
    pairs = itertools.combinations(experiments, 2)
    alike = {(a.stem, b.stem): longest_repetition(a, b) for a, b in pairs}
    assert not {names: count for names, count in alike.items() if count >= 15}


def repeated(preset, defaults, place=""):
    """Settings of a preset that say what its defaults say already."""
    for key, value in preset.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            yield from repeated(value, defaults[key], f"{place}{key}.")
        elif key in defaults and defaults[key] == value and key != "_target_":
            yield f"{place}{key}"


def test_defaults_of_training_are_written_once():
    folder = conf_dir() / "train"
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    defaults = presets.pop("defaults")
    assert {"stop_after", "monitor", "clip_norm", "accumulate"} <= set(defaults)
    assert all(set(preset.pop("defaults")) - {"_self_"} for preset in presets.values())
    found = {name: list(repeated(preset, defaults)) for name, preset in presets.items()}
    assert not {name: keys for name, keys in found.items() if keys}


SMALL_GROUPS = ("infer", "sample", "sizes", "train")
"""Their presets are short; those of other groups are whole steps that a comparison exchanges."""


@pytest.mark.parametrize("group", SMALL_GROUPS)
def test_a_preset_has_two_users(group):
    """Experiments, or other presets that begin with it."""
    names = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
    experiments = [path.read_text(encoding="utf-8") for path in experiments_dir().glob("*.yaml")]
    presets = [path.read_text(encoding="utf-8") for path in (conf_dir() / group).glob("*.yaml")]
    users = {
        name: sum(bool(re.search(rf"/{group}: {name}\b", text)) for text in experiments)
        + sum(bool(re.search(rf"^  - {name}$", text, re.M)) for text in presets)
        for name in names
    }
    assert not {name: count for name, count in users.items() if count < 2}
