"""The folder of one run: who owns it, what it was made from, what lies where."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.files import atomic_write, write_json
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.read.splits import PARTS, Split, write_split
from msseg_lightning.run.compose import Config
from msseg_lightning.run.fence import read_run_config

IRRELEVANT = ("trainer", "paths", "track", "overwrite", "sizes", "card", "data.workers", "profile")
"""Settings that may change when a run is continued: they do not change what it computes. Of the
hardware that is true as long as as many batches make up a step, see `batches_per_step`."""


class RunFolder:
    """``runs/<experiment>/<data>-fold<k>-seed<s>``.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    config_file = property(lambda self: self.path / "config.yaml")
    record_file = property(lambda self: self.path / "run.json")
    split_file = property(lambda self: self.path / "split.json")
    fit = property(lambda self: self.path / "fit")
    model = property(lambda self: self.path / "model")
    predictions = property(lambda self: self.path / "predictions")
    scores_file = property(lambda self: self.path / "scores.json")
    report_file = property(lambda self: self.path / "report.html")

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """Where a configuration's run lies."""
        size = "" if config["size"] == "paper" else f"-{config['size']}"
        name = f"{data_name(config)}{size}-fold{config['fold']}-seed{config['seed']}"
        return cls(Path(config["paths"]["runs"]) / config["name"] / name)

    @classmethod
    def find(cls, text: str) -> RunFolder:
        """A run folder by path.

        Raises:
            MssegError: there is no run in that folder (exit 4).
        """
        folder = cls(Path(text))
        if not folder.config_file.is_file():
            raise MssegError(
                Problem(
                    "run.missing",
                    "this is not the folder of a run",
                    file=text,
                    expected="a folder with config.yaml and model/",
                    remedy="give a folder under runs/, as `msseg train` printed it",
                    exit_code=ExitCode.MODEL,
                )
            )
        return folder

    def config(self) -> Config:
        """The configuration the run was made from."""
        try:
            content = read_run_config(self.config_file.read_text(encoding="utf-8"))
        except ValueError:  # also what does not decode
            content = None
        if not isinstance(content, dict):
            raise MssegError(
                Problem(
                    "run.config_damaged",
                    "the configuration of this run cannot be read",
                    file=self.config_file,
                    expected="YAML as `msseg train` wrote it",
                    remedy="restore the file, or train again with overwrite=true",
                    exit_code=ExitCode.MODEL,
                )
            )
        return content

    def record(self) -> dict[str, Any]:
        """What is known about the run; empty before it began."""
        if not self.record_file.exists():
            return {}
        content = json.loads(self.record_file.read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content

    def update_record(self, **changes: Any) -> None:
        """Add to ``run.json``."""
        write_json(self.record_file, {**self.record(), **changes})

    def claim_config(self, config: Config) -> None:
        """Write the configuration, or check that the run here was made from an equal one.

        A command that was killed before anything was fitted leaves no claim.

        Raises:
            MssegError: it was not (exit 4), with the differing settings.
        """
        if self.config_file.exists() and not config["overwrite"]:
            differences = compare(relevant(self.config()), relevant(config))
            if differences and not self._fitted():
                self._clear()
            elif differences:
                raise MssegError(
                    Problem(
                        "run.config_changed",
                        "a run with other settings lies here",
                        file=self.path,
                        field=", ".join(differences)[:300],
                        found="; ".join(f"{k}: {a} -> {b}" for k, (a, b) in differences.items())[
                            :600
                        ],
                        remedy="give the old settings to continue it, paths.runs=OTHER to keep "
                        "both, or overwrite=true to start again",
                        exit_code=ExitCode.MODEL,
                    )
                )
        elif self.config_file.exists():
            self._clear()
        with atomic_write(self.config_file) as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    def disclaim(self) -> None:
        """Take the claim back where it is all that lies here; the lock then removes the folder."""
        if not self._fitted() and not self.record_file.exists():
            self._clear()

    def claim_split(self, split: Split) -> None:
        """Write the split, or check that what was fitted here was fitted for an equal one.

        What is fitted is not fitted again, so after any change of the data it could be tested on
        pairs it has seen.

        Raises:
            MssegError: the split or its data changed (exit 4), with the pairs that moved.
        """
        try:
            old = dict(json.loads(self.split_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            old = {}  # gone or damaged: nobody knows what this was fitted on
        new = json.loads(json.dumps(dataclasses.asdict(split)))
        differences = compare(old, new)
        if differences and self._fitted():
            moved = compare(_placed(old), _placed(new))
            raise MssegError(
                Problem(
                    "run.split_changed",
                    "what lies here was fitted on other data, or on another division of them",
                    file=self.split_file,
                    field=", ".join(differences),
                    found="; ".join(f"{k}: {a} -> {b}" for k, (a, b) in moved.items())[:600]
                    or "the same pairs in another order",
                    expected="the split it was fitted for",
                    remedy="restore the data to continue it, paths.runs=OTHER to keep both, or "
                    "overwrite=true to start again",
                    exit_code=ExitCode.MODEL,
                )
            )
        write_split(self.split_file, split)

    def _fitted(self) -> bool:
        return self.model.exists() or any(self.fit.glob("*"))

    def _clear(self) -> None:
        import shutil

        for child in self.path.iterdir():
            if child.name not in ("run.lock", "owner.json"):
                shutil.rmtree(child) if child.is_dir() else child.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own the folder while running; the operating system frees it when the process dies.

        A folder that holds nothing in the end is removed.

        Raises:
            MssegError: another process runs here (exit 2).
        """
        import filelock

        self.path.mkdir(parents=True, exist_ok=True)
        owner_file = self.path / "owner.json"
        lock = filelock.FileLock(self.path / "run.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            owner = owner_file.read_text(encoding="utf-8") if owner_file.exists() else "unknown"
            raise MssegError(
                Problem(
                    "run.busy",
                    "another process is running in this folder",
                    file=self.path,
                    found=" ".join(owner.split()),
                    remedy="wait for it, or use another seed, fold or paths.runs",
                    exit_code=ExitCode.CONFIG,
                )
            ) from error
        try:
            write_json(owner_file, {"process": os.getpid(), "host": platform.node()})
            yield
        finally:
            owner_file.unlink(missing_ok=True)
            if [child.name for child in self.path.iterdir()] == ["run.lock"]:
                (self.path / "run.lock").unlink()
                with contextlib.suppress(OSError):  # something else was put there meanwhile
                    self.path.rmdir()
                    self.path.parent.rmdir()
            lock.release()


def _placed(split: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a split, then the part each pair is in."""
    facts = {key: value for key, value in split.items() if key not in PARTS}
    return facts | {name: part for part in PARTS for name in split.get(part, ())}


def data_name(config: Config) -> str:
    """A short name of the data set: the folder it lies in."""
    root = config["read"].get("root") or config["read"].get("manifest") or "data"
    return Path(str(root)).resolve().name.split(".")[0]


def flatten(node: Any, place: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    if not isinstance(node, Mapping) or not node:
        return {place: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found.update(flatten(value, f"{place}.{key}" if place else str(key)))
    return found


def relevant(config: Config) -> dict[str, Any]:
    """Settings that decide what is computed."""
    found = {
        key: value
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in IRRELEVANT)
    }
    if found.pop("train.accumulate", None) is not None:
        found["trainer.devices x trainer.num_nodes x train.accumulate"] = batches_per_step(config)
    return found


def batches_per_step(config: Config) -> int:
    """Batches that one optimiser step adds up, over devices and over time.

    Four devices and one device that accumulates four times see the same patches, so a run may go
    on with either.
    """
    trainer, train = config.get("trainer") or {}, config.get("train") or {}
    devices = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    return int(devices * (train.get("accumulate") or 1))


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ: key -> (old, new)."""
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
