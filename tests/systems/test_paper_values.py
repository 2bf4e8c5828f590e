"""Every number that a paper or its authors' code gives is what the experiment does at paper size.

The table beside this file, ``paper_values.yaml``, has a row for each of them. Here every
experiment is composed once and compared; a number in an experiment or one of its presets that is
tagged ``[P]`` or ``[C]`` and has no row fails as well.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.preset_files import conf_dir, experiment_names, experiments_dir

TABLE = Path(__file__).with_name("paper_values.yaml")
TAG = re.compile(r"\[([PCR])\]")


class Row(NamedTuple):
    """One line of the table."""

    value: Any
    tag: str
    where: str


class _Numbers(yaml.SafeLoader):
    """Reads YAML without ever making a second value of one key out of the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(names) == len(set(names)), f"a key twice near {node.start_mark}"
        return super().construct_mapping(node, deep)


@functools.cache
def table() -> dict[str, dict[str, Row]]:
    text = TABLE.read_text(encoding="utf-8")
    found = yaml.load(text, _Numbers)
    return {
        name: {key: Row(*row) for key, row in rows.items()}
        for name, rows in found.items()
        if name != "shared"
    }


@functools.cache
def composed(name: str) -> dict[str, Any]:
    return compose_config(["read.root=."], name)


def at(config: Any, key: str) -> Any:
    """The value under a dotted key; keys of the configuration may hold dots themselves."""
    if not key:
        return config
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        head = ".".join(parts[:end])
        if isinstance(config, Mapping) and head in config:
            return at(config[head], ".".join(parts[end:]))
    raise AssertionError(f"the configuration has no {key}")


def class_of(node: Any) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def said(name: str, key: str, like: Any) -> Any:
    """What an experiment says under the key of a row, in the form of the row's value.

    A mapping is compared with a word by its class, with a list by its parts in their order: the
    class of each, or its name where it has none; parts that are null are no part.
    ``parameters(KEY)`` counts those of a network, ``code(PATH)`` is a constant of the code.
    """
    if key.startswith("parameters("):
        with torch.device("meta"):
            network = instantiate(at(composed(name), key[11:-1]))
        return sum(weight.numel() for weight in network.parameters())
    if key.startswith("code("):
        module, _, attribute = key[5:-1].rpartition(".")
        return getattr(importlib.import_module(module), attribute)
    value = at(composed(name), key)
    if isinstance(value, Mapping) and isinstance(like, list):
        parts = {part: each for part, each in value.items() if part != "_target_"}
        return [
            class_of(each) if isinstance(each, Mapping) and "_target_" in each else part
            for part, each in parts.items()
            if each is not None
        ]
    if isinstance(value, Mapping) and isinstance(like, str):
        return class_of(value)
    if isinstance(value, str) and key.endswith("._target_"):
        return value.rpartition(".")[2]
    return value


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_does_what_its_paper_says(name):
    assert name in table(), f"{TABLE.name} has no rows for {name}"
    rows = table()[name]
    wrong = []
    for key, row in rows.items():
        found = said(name, key, row.value)
        if isinstance(row.value, float) and isinstance(found, int | float):
            same = found == pytest.approx(row.value, rel=1e-9)
        else:
            same = found == row.value and isinstance(found, bool) == isinstance(row.value, bool)
        if not same:
            wrong.append(f"{key} is {found}, [{row.tag}] {row.where} has {row.value}")
    assert not wrong, "\n".join(wrong)


def test_every_row_is_complete():
    bad = [
        f"{name}: {key}"
        for name, rows in table().items()
        for key, row in rows.items()
        if row.tag not in ("P", "C", "R") or not row.where
    ]
    assert not bad
    assert sorted(table()) == experiment_names()


def comment(line: str) -> str:
    found = re.search(r"(?:^|\s)#(.*)$", line)
    return found.group(1) if found else ""


def lines(path: Path, prefix: str) -> Iterator[tuple[str, str | None]]:
    """Key of every value of a YAML file, and the first tag in its line."""
    text = path.read_text(encoding="utf-8")
    source = text.splitlines()

    def walk(node: Any, key: str) -> Iterator[tuple[str, str]]:
        for name, value in node.value:
            below = f"{key}.{name.value}" if key else name.value
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, below)
                continue
            tags = TAG.findall(comment(source[name.start_mark.line]))
            if below.split(".")[0] not in ("card", "sizes", "defaults"):
                yield below, tags[0] if tags else None

    yield from walk(yaml.compose(text), prefix)


def tagged(path: Path, prefix: str) -> Iterator[tuple[str, str]]:
    """Those of ``lines`` that have a tag."""
    return ((key, tag) for key, tag in lines(path, prefix) if tag)


def files_of(name: str) -> Iterator[tuple[Path, str]]:
    """The files that an experiment is composed of, each with the key it is put under."""

    def choices(path: Path) -> dict[str, str | None]:
        items = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])
        return {
            re.sub("^(override )?/", "", key): preset
            for item in items
            if isinstance(item, dict)
            for key, preset in item.items()
        }

    own = experiments_dir() / f"{name}.yaml"
    for key, preset in {**choices(conf_dir() / "config.yaml"), **choices(own)}.items():
        group, _, place = key.partition("@")  # a preset for a node inside, as of a stage
        waiting = [] if preset is None or group == "experiments" else [preset]
        while waiting:
            path = conf_dir() / group / f"{waiting.pop()}.yaml"
            items = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])
            waiting += [item for item in items if item != "_self_"]
            yield path, place or group
    yield own, ""


GROUPS = (
    "preprocess",
    "sample",
    "augment",
    "network",
    "loss",
    "train",
    "ensemble",
    "infer",
    "postprocess",
)
"""Steps whose every number is the paper's, the code's or a reading."""

OF_THE_MACHINE = re.compile(
    r"(sample\.visits\.(folder|workers)|_target_|_partial_|_convert_|checkpoint_minutes|tiling|precision|infer\..*batch_size"
    r"|steps\.register\..*|steps\.brain\.overwrite)$"
)
"""What decides how fast something is computed, or is in the row of the mapping it belongs to."""


def leaves(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, Mapping) and key != "ensemble.configs":
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}")
    elif isinstance(node, int | float | str | list):
        yield key


def untagged(name: str) -> set[str]:
    """Settings of the steps that no line of a file calls a reading, a paper's or a code's."""
    config = composed(name)
    told = {key for file in files_of(name) for key, _ in tagged(*file)}
    if not config.get("network"):  # trees, rules, or members with rows of their own
        return set()
    found = {key for group in GROUPS for key in leaves(config.get(group), group)}
    own = dict(lines(experiments_dir() / f"{name}.yaml", ""))
    stages = {key for key in own if key.startswith("stages.") and at(config, key) is not None}
    found |= {key for key in stages if not key.endswith((".infer", ".visits"))}
    copied = ("train.task.cut", "sample.visits.steps")  # of settings that have their rows
    return {
        key for key in found - told if not OF_THE_MACHINE.search(key) and not key.startswith(copied)
    }


@pytest.mark.parametrize("name", experiment_names())
def test_every_number_has_a_row_or_is_a_reading(name):
    """What an experiment overrides in a preset, or what the ensemble does not use, needs none."""
    needed = {key for file in files_of(name) for key, tag in tagged(*file) if tag != "R"}
    needed = {key for key in needed if is_set(composed(name), key)} | untagged(name)
    rows = set(table()[name])
    # a class is in the row of the mapping it belongs to, or of the mapping around that
    without = {
        key
        for key in needed - rows
        if not (key.endswith("._target_") and {key[:-9], key[:-9].rpartition(".")[0]} & rows)
    }
    assert not without, (
        f"{TABLE.name} has no rows for these settings of {name}, and no file calls them a reading "
        f"[R]: {', '.join(sorted(without))}"
    )


def test_a_registration_that_is_told_a_spacing_leaves_the_resampling_nothing_to_do():
    """A raw pair is interpolated once, by the rule for masks of the resampling after it."""
    told = {}
    for name in experiment_names():
        steps = (composed(name)["preprocess"] or {}).get("steps") or {}
        register, resample = steps.get("register") or {}, steps.get("resample") or {}
        if register.get("spacing_mm"):
            told[name] = register["spacing_mm"]
            rules = [step.get("mask_rule", "linear_threshold") for step in (register, resample)]
            assert told[name] == resample["spacing_mm"] and rules[0] == rules[1], name
    assert told.items() >= {"ohem_unet": 0.5, "pre_unet": 0.6, "softseg_modified_unet": 0.5}.items()


def is_set(config: Any, key: str) -> bool:
    try:
        at(config, key)
    except AssertionError:
        return False
    return True


def test_the_tags_of_a_file_are_found(tmp_path):
    path = tmp_path / "preset.yaml"
    path.write_text(
        "# S99. All [P]\n"
        "a: 1        # [P] one\n"
        "b:\n"
        "  c: [1, 2] # [C], d [P]\n"
        "  d: 2\n"
        "  e: {f: 1, g: 2}  # [R] both\n"
        "h: '#x'     # no tag\n"
    )
    assert list(lines(path, "x"))[-1] == ("x.h", None)
    assert list(tagged(path, "x")) == [
        ("x.a", "P"),
        ("x.b.c", "C"),
        ("x.b.e.f", "R"),
        ("x.b.e.g", "R"),
    ]
