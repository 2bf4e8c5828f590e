"""Storage of boosters as LightGBM's text with a JSON card."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import atomic_write, read_regular, write_record
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.network.weights import CARD_NAME, FORMAT_VERSION, problem, read_card

LARGEST = 256 << 20
"""Largest size of a booster's file in bytes; a thousand trees of 31 leaves take 4 MB."""

_UNUSED = re.compile(r"^tree_sizes=.*\n", re.MULTILINE)


def plain_text(text: str) -> str:
    """A booster's text without settings, importances and byte sizes.

    Without ``tree_sizes`` LightGBM reads tree after tree instead of jumping to stated places.
    """
    return _UNUSED.sub("", text.partition("\nend of trees")[0]) + "\nend of trees\n"


def write_text(path: Path, text: str) -> str:
    """Write a booster's text atomically and return its SHA-256."""
    content = text.encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def save_boosters(texts: Sequence[str], folder: Path, system: str, features: Sequence[str]) -> None:
    """Write ``booster0.txt`` ... and ``card.json``, the card last.

    Args:
        texts: from ``plain_text``.
        folder: made if missing.
        system: name of the experiment.
        features: names of the columns, in order.
    """
    names = [f"booster{number}.txt" for number in range(len(texts))]
    boosters = [
        {"file": name, "sha256": write_text(folder / name, text)}
        for name, text in zip(names, texts, strict=True)
    ]
    card = {
        "format": FORMAT_VERSION,
        "system": system,
        "features": list(features),
        "boosters": boosters,
        "sha256": _joint(boosters),
    }
    write_record(folder / CARD_NAME, card)


def load_texts(folder: Path, features: Sequence[str]) -> list[str]:
    """Read the texts of boosters; nothing in the files is executed.

    Raises:
        MssegError: exit 4 for a missing or malformed file or other features; exit 6 for a file
            that is not the one the card describes.
    """
    path = folder / CARD_NAME
    card = read_card(path)
    boosters = card.get("boosters")
    if not isinstance(boosters, list) or not all(map(_is_entry, boosters)):
        boosters = []
    if not boosters or card["sha256"] != _joint(boosters):
        raise problem(
            "booster.card",
            "The model card does not describe boosters.",
            path,
            field="boosters",
            remedy="copy the whole model folder again, or train again",
        )
    return [read_text(folder / entry["file"], entry["sha256"], features) for entry in boosters]


def read_text(path: Path, sha256: str, features: Sequence[str]) -> str:
    """Read and check a booster's text.

    Raises:
        MssegError: see ``load_texts``.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise OSError(f"{path.stat().st_size} bytes, at most {LARGEST}")
        content = read_regular(path)
    except (OSError, ValueError) as error:
        raise problem(
            "booster.missing",
            "A booster cannot be read.",
            path,
            found=getattr(error, "strerror", None) or str(error),
            remedy="copy the whole model folder again, or train again",
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise problem(
            "booster.hash",
            "The booster is not the one the model card describes.",
            path,
            field="sha256",
            found=found,
            expected=sha256,
            remedy="get boosters and card again from a source you trust",
            exit_code=ExitCode.SECURITY,
        )
    try:
        text = content.decode("ascii")
        check_text(text, features)
    except ValueError as error:  # also what does not decode or is no number
        raise problem(
            "booster.malformed",
            "The file is not a booster of this system.",
            path,
            found=str(error)[:200],
            expected="LightGBM's text with the system's features",
            remedy="use the configuration that was saved with the model, or train again",
        ) from error
    return text


def check_text(text: str, features: Sequence[str]) -> None:
    """Refuse texts that would make LightGBM read out of bounds.

    Args:
        text: from ``plain_text``.
        features: names of the columns, in order.

    Raises:
        ValueError: what is wrong.
    """
    head, *trees = re.split(r"^Tree=\d+\n", text, flags=re.MULTILINE)
    facts = _facts(head)
    expected = {
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "max_feature_idx": str(len(features) - 1),
        "objective": "binary sigmoid:1",
        "feature_names": " ".join(features),
    }
    for name, value in expected.items():
        if facts.get(name) != value:
            raise ValueError(f"{name} is {facts.get(name)!r}, expected {value!r}")
    if not head.startswith("tree\n") or "tree_sizes" in facts or not trees:
        raise ValueError("not a list of trees")
    if not text.endswith("\nend of trees\n"):
        raise ValueError("cut off")
    for number, tree in enumerate(trees):
        try:
            _check_tree(_facts(tree), len(features))
        except (ValueError, KeyError) as error:
            raise ValueError(f"tree {number}: {error}") from error


def _check_tree(tree: dict[str, str], features: int) -> None:
    leaves = int(tree["num_leaves"])
    if leaves < 1 or tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError("not a plain tree")
    _numbers(tree, "leaf_value", leaves, float)
    if leaves == 1:
        return
    nodes = leaves - 1
    _numbers(tree, "threshold", nodes, float)
    if any(not 0 <= column < features for column in _numbers(tree, "split_feature", nodes, int)):
        raise ValueError("a split on a feature that does not exist")
    if any(kind & 1 for kind in _numbers(tree, "decision_type", nodes, int)):
        raise ValueError("a split on categories")
    # a child is a later node, or the complement of a leaf: no way leads in circles
    children = [
        child
        for side in ("left_child", "right_child")
        for node, child in enumerate(_numbers(tree, side, nodes, int))
        if not (node < child < nodes or -leaves <= child < 0)
    ]
    if children:
        raise ValueError(f"a child that is none: {children[0]}")


def _numbers(tree: dict[str, str], name: str, count: int, kind: type[Any]) -> list[Any]:
    values = [kind(word) for word in tree[name].split()]
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name} holds no {count} finite numbers")
    return values


def _facts(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and re.fullmatch(r"booster\d{1,4}\.txt", str(entry.get("file"))) is not None
    )


def _joint(boosters: Sequence[dict[str, str]]) -> str:
    return hashlib.sha256("".join(entry["sha256"] for entry in boosters).encode()).hexdigest()
