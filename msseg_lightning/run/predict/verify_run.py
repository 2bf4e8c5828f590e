"""Comparison of two runs: what is promised about them, where they part, and why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.folder import RunFolder, compare, flatten, result_settings

BIT_FOR_BIT = "bit for bit"
STATISTICAL = "statistically"
NOTHING = "nothing"

PROMISES = {
    BIT_FOR_BIT: "equal bit for bit: same settings, data, code, versions, processor and threads",
    STATISTICAL: "equal statistically: differences stay within those between seeds",
    NOTHING: "nothing: these are different experiments",
}
"""Promise -> what it means."""

STAGES = ("training", "weights", "maps", "masks", "scores")
"""Results in the order in which they are made."""


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something in which two runs differ that results may depend on."""

    name: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.name}: {self.first} / {self.second}"


@dataclasses.dataclass(frozen=True)
class RunComparison:
    """What is promised about two runs, and what was found.

    Args:
        promise: a key of ``PROMISES``.
        why: facts that make another promise than ``BIT_FOR_BIT``.
        parted: stage -> how results differ there; in order, without those that are equal.
        compared: stage -> number of files or values that were compared.
    """

    promise: str
    why: tuple[Fact, ...]
    parted: Mapping[str, str]
    compared: Mapping[str, int]

    @property
    def first_difference(self) -> str | None:
        """The first stage in which the runs differ."""
        return next(iter(self.parted), None)

    @property
    def kept(self) -> bool:
        """Whether the promise is kept; only equality bit for bit can be broken by two runs."""
        return self.promise != BIT_FOR_BIT or not self.parted

    @property
    def exit_code(self) -> ExitCode:
        """0, or 7 where runs that must be equal differ."""
        return ExitCode.OK if self.kept else ExitCode.NUMERICAL

    def as_dict(self) -> dict[str, Any]:
        """The comparison as a JSON record."""
        return {
            "promise": self.promise,
            "why": [dataclasses.asdict(fact) for fact in self.why],
            "kept": self.kept,
            "first_difference": self.first_difference,
            "parted": dict(self.parted),
            "compared": dict(self.compared),
        }


def verify_runs(first: RunFolder, second: RunFolder) -> RunComparison:
    """Compare two runs.

    Raises:
        MssegError: one of them is no run, or a file of it is damaged (exit 4).
    """
    different = tuple(_experiment_facts(first, second))
    elsewhere = tuple(_machine_facts(first.record(), second.record()))
    promise = NOTHING if different else STATISTICAL if elsewhere else BIT_FOR_BIT
    parted, compared = {}, {}
    for stage in STAGES:
        count, difference = _COMPARE[stage](first.path, second.path)
        compared[stage] = count
        if difference:
            parted[stage] = difference
    return RunComparison(promise, different + elsewhere, parted, compared)


def _experiment_facts(first: RunFolder, second: RunFolder) -> Iterator[Fact]:
    """Settings and data in which two runs differ."""
    settings = [result_settings(one.config()) for one in (first, second)]
    for key, (one, other) in compare(*settings).items():
        if not key.startswith(("read.", "split.path")):  # places; what lies there has a hash
            yield Fact(key, str(one), str(other))
    records = [one.record() for one in (first, second)]
    for key in ("data_hash", "split_hash"):
        one, other = (record.get(key) for record in records)
        if one != other:
            yield Fact(key.removesuffix("_hash"), str(one), str(other))


def _machine_facts(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Fact]:
    """Code, versions and hardware in which two runs differ, or that are not known."""
    records = [flatten(record.get("environment") or {}) for record in (first, second)]
    for key in dict.fromkeys([*records[0], *records[1]]):
        one, other = (record.get(key) for record in records)
        if key in ("command", "cpu_count"):
            continue
        if key == "git.dirty":
            if one or other:
                yield Fact("code", *(_changed(value) for value in (one, other)))
        elif one != other:
            yield Fact(key.removeprefix("packages."), _text(one), _text(other))
    for key in ("cpu_flags", "torch_threads"):
        if not all(record.get(key) for record in records):
            yield Fact(key, *(_text(record.get(key)) for record in records))
    if any(record.get("gpus") for record in records):
        yield Fact("gpus", *(_text(record.get("gpus")) for record in records))


def _changed(value: Any) -> str:
    return "changed since its commit" if value else "as committed"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def _pairs(first: Path, second: Path, pattern: str) -> dict[str, tuple[Path, Path]]:
    """Files of two folders by relative path; of either folder alone too."""
    names = sorted(
        {
            path.relative_to(folder).as_posix()
            for folder in (first, second)
            for path in folder.glob(pattern)
            if path.is_file()
        }
    )
    return {name: (first / name, second / name) for name in names}


def _compare_files(
    first: Path, second: Path, pattern: str, differ: Callable[[Path, Path], str]
) -> tuple[int, str]:
    """Number of files, and how the first pair of them that differs does."""
    pairs = _pairs(first, second, pattern)
    found = ""
    for name, (one, other) in pairs.items():
        if found:
            break
        if not (one.is_file() and other.is_file()):
            found = f"{name} is in one run only"
        elif sha256_file(one) != sha256_file(other) and (text := differ(one, other)):
            found = f"{name}: {text}"
    return len(pairs), found


def _compare_training(first: Path, second: Path) -> tuple[int, str]:
    return _compare_files(first, second, "**/fit/**/curves.csv", _differing_line)


def _differing_line(one: Path, other: Path) -> str:
    texts = [path.read_text(encoding="utf-8").splitlines() for path in (one, other)]
    rows = [{line.rsplit(",", 1)[0]: line.rsplit(",", 1)[-1] for line in text} for text in texts]
    for key in rows[0]:
        if key in rows[1] and rows[0][key] != rows[1][key]:
            return f"step,name {key}: {rows[0][key]} / {rows[1][key]}"
    missing = sorted(rows[0].keys() ^ rows[1].keys())
    return f"{len(missing)} lines are in one run only, e.g. {missing[0]}" if missing else ""


def _compare_weights(first: Path, second: Path) -> tuple[int, str]:
    def differ(one: Path, other: Path) -> str:
        if one.suffix != ".safetensors":
            return "other bytes"
        from safetensors.numpy import load_file

        tensors = [load_file(path) for path in (one, other)]
        if tensors[0].keys() != tensors[1].keys():
            return "other layers"
        for name, values in tensors[0].items():
            if not np.array_equal(values, tensors[1][name]):
                return f"{name}, {_largest(values, tensors[1][name])}"
        return ""

    counts = [
        _compare_files(first, second, pattern, differ)
        for pattern in ("model/**/*.safetensors", "model/**/*.txt")
    ]
    return sum(count for count, _ in counts), next((text for _, text in counts if text), "")


def _compare_images(which: Callable[[str], bool]) -> Callable[[Path, Path], tuple[int, str]]:
    def differ(one: Path, other: Path) -> str:
        import nibabel

        values = [np.asarray(nibabel.nifti1.load(path).dataobj) for path in (one, other)]
        if np.array_equal(values[0], values[1]):
            return ""
        return _largest(*values)

    def compare_images(first: Path, second: Path) -> tuple[int, str]:
        pairs = _pairs(first, second, "predictions/**/*.nii.gz")
        chosen = {name: pair for name, pair in pairs.items() if which(name)}
        for name in chosen:
            if text := _compare_files(first, second, name, differ)[1]:
                return len(chosen), text
        return len(chosen), ""

    return compare_images


def _is_map(name: str) -> bool:
    return name.endswith(("_probability.nii.gz", "_uncertainty.nii.gz")) or "/steps/" in name


def _largest(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> str:
    if one.shape != other.shape:
        return f"shape {one.shape} / {other.shape}"
    gap = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64))
    return f"{int((gap > 0).sum())} of {gap.size} values differ, by at most {gap.max():.3g}"


def _compare_scores(first: Path, second: Path) -> tuple[int, str]:
    def differ(one: Path, other: Path) -> str:
        cases = [flatten(json.loads(path.read_text())["cases"]) for path in (one, other)]
        found = compare(*cases)
        if not found:
            return ""
        key, (old, new) = next(iter(found.items()))
        return f"{len(found)} values differ, e.g. {key}: {old} / {new}"

    return _compare_files(first, second, "scores.json", differ)


_COMPARE: dict[str, Callable[[Path, Path], tuple[int, str]]] = {
    "training": _compare_training,
    "weights": _compare_weights,
    "maps": _compare_images(_is_map),
    "masks": _compare_images(lambda name: not _is_map(name)),
    "scores": _compare_scores,
}
