"""The folder of a run: its files, its lock, and checks of its configuration and split."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import (
    DamagedFileError,
    Fields,
    damaged_file,
    read_record,
    read_settings,
    require_record,
    write_json,
    write_record,
    write_settings,
)
from msseg_lightning.core.locks import require_locks
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.allow_list import (
    read_stored_yaml,
    refuse_interpolations,
    refuse_targets,
)
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import RENAMED_KEYS, affects_result, hardware, precision
from msseg_lightning.split.split import PARTS, Split, write_split

RECORD: Fields = {
    "status?": str,
    "stages?": dict,
    "data_hash?": str,
    "split_hash?": str,
    "fit_minutes?": (int, float),
    "fit_cpu_minutes?": (int, float),
    "peak_mib?": int,
}
"""Fields of ``run.json``."""

CONFIG: dict[str, Any] = {
    "name": str,
    "size": str,
    "seed": int,
    "fold": int,
    "card": Mapping,
    "channels": Mapping,
    "data": Mapping,
    "paths": Mapping,
    "read": Mapping,
}
"""Fields of ``config.yaml`` that a report needs."""

SPLIT_REMEDY = "restore the file, or train again with overwrite=true"

SCORES = {"summary": dict, "cases": dict}
"""Fields of ``scores.json``."""


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
    def from_config(cls, config: Config) -> RunFolder:
        """The run folder of a configuration."""
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
        remedy = "restore the file, or train again with overwrite=true"
        return read_config(self.config_file, "run.config_damaged", remedy)

    def complete_config(self) -> Config:
        """The configuration of a run that may come from elsewhere, with the fields of a report.

        Raises:
            MssegError: a field is missing or of another type (exit 4).
        """
        found = self.config()
        wrong = [key for key, kind in CONFIG.items() if not isinstance(found.get(key), kind)]
        if wrong:
            raise _damaged_config(
                self.config_file,
                "run.config_damaged",
                "restore the file, or train again with overwrite=true",
                f"nothing usable under {', '.join(wrong)}",
            )
        return found

    def record(self) -> dict[str, Any]:
        """The content of ``run.json``; empty before the run began."""
        if not self.record_file.exists():
            return {}
        remedy = "delete it and give the `msseg train` command again, which writes it anew"
        return require_record(self.record_file, remedy, RECORD)

    def scores(self) -> dict[str, Any]:
        """The content of ``scores.json``.

        Raises:
            MssegError: the file is missing or damaged (exit 4).
        """
        return read_scores(self.scores_file)

    def split(self) -> dict[str, Any]:
        """The content of ``split.json``.

        Raises:
            MssegError: the file is missing or damaged (exit 4).
        """
        return require_record(self.split_file, SPLIT_REMEDY, {"train": list, "val": list})

    def update_record(self, **changes: Any) -> None:
        """Add to ``run.json``."""
        write_record(self.record_file, {**self.record(), **changes})

    def claim_config(self, config: Config) -> None:
        """Write the configuration, or check that it equals the one of the run in this folder.

        The resolved precision is written instead of ``auto``, so that the run is not continued with
        another one on another machine. A configuration of a command that was killed before anything
        was fitted is overwritten.

        Raises:
            MssegError: the configurations differ (exit 4), with the differing settings.
        """
        if self.config_file.exists() and not config["overwrite"]:
            differences = compare(result_settings(self.config()), result_settings(config))
            if differences and not self._fitted():
                self._clear()
            elif differences:
                raise MssegError(
                    Problem(
                        "run.config_changed",
                        "this folder holds a run with other settings",
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
        trainer = config.get("trainer") or {}
        fixed = {**trainer, "precision": precision(trainer)}
        write_settings(self.config_file, {**config, "trainer": fixed})

    def withdraw_claim(self) -> None:
        """Remove the configuration again if nothing else is in the folder."""
        if not self._fitted() and not self.record_file.exists():
            self._clear()

    def claim_split(self, split: Split) -> None:
        """Write the split, or check that it equals the one that was used for fitting.

        What was fitted is reused, so after a change of the data it could be tested on pairs that it
        was trained on.

        Raises:
            MssegError: the split or its data changed (exit 4), with the pairs that moved.
        """
        try:
            old = read_record(self.split_file)
        except FileNotFoundError:
            old = {}  # the data of the fit are unknown
        except (OSError, DamagedFileError) as error:
            if self._fitted():
                raise damaged_file(self.split_file, error, SPLIT_REMEDY) from error
            old = {}
        new = json.loads(json.dumps(dataclasses.asdict(split)))
        differences = compare(old, new)
        if differences and self._fitted():
            moved = compare(_placed(old), _placed(new))
            raise MssegError(
                Problem(
                    "run.split_changed",
                    "the model in this folder was fitted on other data or another split of them",
                    file=self.split_file,
                    field=", ".join(differences),
                    found="; ".join(f"{k}: {a} -> {b}" for k, (a, b) in moved.items())[:600]
                    or "the same pairs in another order",
                    expected="the split that was used for fitting",
                    remedy="restore the data to continue it, paths.runs=OTHER to keep both, or "
                    "overwrite=true to start again",
                    exit_code=ExitCode.MODEL,
                )
            )
        write_split(self.split_file, split)

    def _fitted(self) -> bool:
        files = (file for file in self.fit.rglob("*") if file.is_file())
        # curves and locks exist before the first step
        early = ("curves.csv", "parent.lock", "key.json")
        return self.model.exists() or any(file.name not in early for file in files)

    def _clear(self) -> None:
        import shutil

        for child in self.path.iterdir():
            if child.name not in ("run.lock", "owner.json"):
                shutil.rmtree(child) if child.is_dir() else child.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder while running; a folder that is empty at the end is removed.

        Raises:
            MssegError: another process runs here (exit 2).
        """
        import filelock

        require_locks(self.path)
        owner_file = self.path / "owner.json"
        lock = filelock.FileLock(self.path / "run.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            owner = owner_file.read_text("utf-8", "replace") if owner_file.exists() else "unknown"
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
                with contextlib.suppress(OSError):  # another file was created meanwhile
                    self.path.rmdir()
                    self.path.parent.rmdir()
            lock.release()


def read_config(file: Path, code: str, remedy: str) -> Config:
    """Read a configuration that ``write_settings`` wrote in a run or model folder.

    Its classes are checked before its checksum, so that unsafe content is reported as such.

    Raises:
        MssegError: it is missing, changed or damaged (exit 4), or holds more than plain values, a
            class that may not be built or an interpolation (exit 6).
    """
    try:
        content, changed = read_settings(file, read_stored_yaml)
    except (OSError, DamagedFileError) as error:
        content, changed = {}, getattr(error, "strerror", None) or str(error)
    if changed is None and not RENAMED_KEYS.keys().isdisjoint(content):
        raise MssegError(
            Problem(
                "run.version",
                "the configuration is of an earlier version, whose settings had other names",
                file=file,
                field=", ".join(sorted(RENAMED_KEYS.keys() & content.keys())),
                expected=", ".join(sorted(RENAMED_KEYS.values())),
                remedy="train it again: the `msseg train` command with overwrite=true",
                exit_code=ExitCode.MODEL,
            )
        )
    refuse_targets(content)
    refuse_interpolations(content)
    if changed is None:
        return content
    raise _damaged_config(file, code, remedy, changed)


def _damaged_config(file: Path, code: str, remedy: str, found: str) -> MssegError:
    return MssegError(
        Problem(
            code,
            "the configuration was changed or damaged after it was written",
            file=file,
            found=found,
            expected="the file as `msseg train` wrote it",
            remedy=remedy,
            exit_code=ExitCode.MODEL,
        )
    )


def read_scores(file: Path) -> dict[str, Any]:
    """The content of a ``scores.json``.

    Raises:
        MssegError: the file is missing or damaged (exit 4).
    """
    remedy = "delete it and give the command that made it again"
    return require_record(file, remedy, SCORES)


def _placed(split: Mapping[str, Any]) -> dict[str, Any]:
    """A stored split as settings and part of each pair."""
    facts = {key: value for key, value in split.items() if key not in PARTS}
    return facts | {name: part for part in PARTS for name in split.get(part, ())}


def data_name(config: Config) -> str:
    """Short name of the data set, from its folder."""
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


def result_settings(config: Config) -> dict[str, Any]:
    """Flat settings that the result of a run depends on.

    Settings that may differ when a run is continued are left out. Devices count only by
    ``batches_per_step``.
    """
    found = {key: value for key, value in flatten(config).items() if affects_result(key)}
    found = {key: value for key, value in found.items() if not key.startswith("trainer.")}
    found |= {f"trainer.{key}": value for key, value in hardware(config).items()}
    if found.pop("train.accumulate", None) is not None:
        found["trainer.devices x trainer.num_nodes x train.accumulate"] = batches_per_step(config)
    return found


def batches_per_step(config: Config) -> int:
    """Batches per optimiser step: devices times gradient accumulation.

    Four devices and one device that accumulates four times see the same patches, so a run may be
    continued with either.
    """
    trainer, train = config.get("trainer") or {}, config.get("train") or {}
    devices = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    return int(devices * (train.get("accumulate") or 1))


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ: key -> (old, new)."""
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
