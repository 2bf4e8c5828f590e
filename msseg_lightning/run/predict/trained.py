"""Loading of trained systems from model folders, with checks and changed settings."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.allow_list import (
    refuse_interpolations,
    refuse_links,
    refuse_paths,
    refuse_targets,
)
from msseg_lightning.run.config.compose import Config, compose_config
from msseg_lightning.run.config.keys import PREDICTION_KEYS, RUN_KEYS, affects_result
from msseg_lightning.run.config.overrides import to_hydra
from msseg_lightning.run.config.preset_files import conf_dir
from msseg_lightning.run.config.setting_checks import refuse_types
from msseg_lightning.run.folder import RunFolder, read_config
from msseg_lightning.run.predict.switches import apply_switches, split_switches

REQUIRED_FIELDS: dict[str, Any] = {"name": str, "seed": int, "data": Mapping, "trainer": Mapping}
"""Required fields of every stored configuration."""

SYSTEM_FIELDS: dict[str, Any] = {"preprocess": Mapping, "method": Mapping}
"""Required fields of a system that is not an ensemble, and of each member of an ensemble."""

NETWORK_FIELDS: dict[str, Any] = {
    "network": Mapping,
    "loss": Mapping,
    "train": Mapping,
    "channels": Mapping,
    "sample": Mapping | None,
    "augment": Mapping | None,
    "infer": Mapping | None,
}
"""Further required fields of a system or stage whose method trains a network."""

POINT_FILE = "operating_point.json"
"""File of a model folder with the operating point that was chosen for it."""

NETWORK_METHOD = "msseg_lightning.method.network_method.NetworkMethod"


def weights_hash(model: Path) -> str | None:
    """SHA-256 of weights or boosters, over all files if there are several; None without any."""
    files = sorted([*model.rglob("weights.safetensors"), *model.rglob("booster*.txt")])
    if len(files) > 1:
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
    return sha256_file(files[0]) if files else None


def model_hash(model: Path) -> str:
    """SHA-256 of all files of a model except its settings (``*.yaml``) and operating points."""
    files = sorted(
        path
        for path in model.rglob("*")
        if path.is_file() and path.suffix != ".yaml" and path.name != POINT_FILE
    )
    content = {path.relative_to(model).as_posix(): sha256_file(path) for path in files}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def stored_config(model: Path) -> Config:
    """The configuration in a model folder; empty if there is none.

    Raises:
        MssegError: it is damaged (exit 4), or holds more than plain values (exit 6).
    """
    file = model / "config.yaml"
    remedy = "copy the model folder again from where it came from"
    return read_config(file, "model.config", remedy) if file.exists() else {}


def _damaged(file: Path, found: str) -> MssegError:
    return MssegError(
        Problem(
            "model.config",
            "the configuration beside the model cannot be used",
            file=file,
            found=found,
            expected="config.yaml as `msseg train` wrote it",
            remedy="copy the model folder again from where it came from",
            exit_code=ExitCode.MODEL,
        )
    )


def find_model(text: str, tracking_folder: str = "mlruns") -> Path:
    """The model folder of a run folder, MLflow run id or registered model name.

    Raises:
        MssegError: there is none, or the run has no model yet (exit 4).
    """
    path = Path(text)
    for candidate in (path / "model", path):
        if (candidate / "config.yaml").is_file() and (candidate / "card.json").is_file():
            return candidate
    if (path / "model" / "config.yaml").is_file():  # several weights, or none
        return path / "model"
    if (path / "run.lock").is_file():  # a run folder
        raise MssegError(
            Problem(
                "run.no_model",
                "this run has no model yet",
                file=path,
                field="model",
                found=f"status {RunFolder(path).record().get('status', 'unknown')}",
                remedy="give its `msseg train` command again to finish it",
                exit_code=ExitCode.MODEL,
            )
        )
    if (path / "config.yaml").is_file():  # several weights, or none, given without its run
        return path
    found = _from_mlflow(text, Path(tracking_folder))
    if found is not None:
        return found
    raise MssegError(
        Problem(
            "model.missing",
            "no model is known by this name",
            file=text,
            expected="a run folder, the id of an MLflow run, or models:/NAME[@ALIAS|/VERSION]",
            remedy="give a folder under runs/, as its training printed it at the end",
            exit_code=ExitCode.MODEL,
        )
    )


def _from_mlflow(text: str, folder: Path) -> Path | None:
    if not (folder / "mlflow.db").exists():
        return None
    import mlflow
    from mlflow.exceptions import MlflowException

    from msseg_lightning.track.store import ensure_store

    mlflow.set_tracking_uri(ensure_store(folder))
    uri = text if text.startswith("models:/") else f"runs:/{text}/model"
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError):
        return None


def load_config(model: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a trained system, checked before anything is built.

    Args:
        model: model folder, from ``find_model``.
        overrides: settings of ``PREDICTION_KEYS``, see ``changed_config``, and ``SWITCHES``.

    Raises:
        MssegError: it is damaged (exit 4), names a class that may not be built, or holds an
            interpolation (exit 6); a setting is unknown or would change what was trained (exit 2).
    """
    from msseg_lightning.read.nifti import GATE_DEFAULTS

    refuse_links(model)
    config = stored_config(model)
    refuse_targets(config)
    refuse_interpolations(config)
    refuse_paths(config)
    wrong = [*_invalid_fields(config, REQUIRED_FIELDS), *_invalid_system_fields(config)]
    if wrong:
        raise _damaged(model / "config.yaml", f"nothing usable under {', '.join(wrong)}")
    # systems trained before these settings existed
    config = {"stages": {}, "uses": {}, "ensemble": None, **config}
    reading = config["data"].get("reading") or {}
    config["data"] = {"workers": 2, **config["data"], "reading": {**GATE_DEFAULTS, **reading}}
    overrides, switches = split_switches(overrides)
    config = changed_config({**config, **default_paths()}, overrides)
    return apply_switches(_without_stored_paths(config, config), switches)


def _invalid_fields(system: Any, kinds: Mapping[str, Any], place: str = "") -> list[str]:
    """Settings that are missing or have another type."""
    return [
        f"{place}{key}"
        for key, kind in kinds.items()
        if key not in system or not isinstance(system[key], kind)
    ]


def _invalid_system_fields(system: Config, place: str = "") -> list[str]:
    """Missing or invalid settings of a system, its stages and its members."""
    ensemble = system.get("ensemble") or {}
    groups = {"ensemble": ensemble, "stages": system.get("stages") or {}}
    groups["postprocess"] = system.get("postprocess") or {}
    groups["ensemble.configs"] = ensemble.get("configs") or {} if _is_group(ensemble) else {}
    groups["uses"] = system.get("uses") or {}
    wrong = [f"{place}{key}" for key, group in groups.items() if not _is_group(group)]
    parts = {
        f"{place}{key}.{name}.": part
        for key in ("stages", "ensemble.configs")
        if _is_group(groups[key])
        for name, part in groups[key].items()
    }
    wrong += [key for key, part in parts.items() if not _is_group(part)]
    for key, part in parts.items():
        if _is_group(part):
            wrong += _invalid_system_fields(part, key)
    if groups["ensemble.configs"]:  # its members are the systems
        return wrong
    kinds: dict[str, Any] = dict(SYSTEM_FIELDS)
    method = system.get("method")
    if system.get("network") is not None or (
        isinstance(method, Mapping) and method.get("_target_") == NETWORK_METHOD
    ):
        kinds |= NETWORK_FIELDS
        if "stages." not in place:  # only a stage may predict nothing
            kinds["infer"] = Mapping
    wrong += _invalid_fields(system, kinds, place)
    if isinstance(method, Mapping) and "_target_" not in method:
        wrong.append(f"{place}method._target_")
    return wrong


def _is_group(node: Any) -> bool:
    return isinstance(node, Mapping)


def default_paths() -> Config:
    """Default paths of the program, used instead of those in a model folder."""
    defaults = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))
    return {
        "paths": defaults["paths"],
        "read": {},
        "split": {},
        "track": {},
        "loggers": [],
        "callbacks": [],
    }


def _without_stored_paths(node: Any, config: Config) -> Any:
    """A configuration without the paths and readers that its stages and members were trained with.

    They use the cache of the user instead, and read no scans of their own.
    """
    if isinstance(node, list):
        return [_without_stored_paths(value, config) for value in node]
    if not isinstance(node, Mapping):
        return node
    found = {}
    for key, value in node.items():
        if key in ("stages", "configs") and isinstance(value, Mapping):
            value = {
                name: {of: it for of, it in part.items() if of not in RUN_KEYS}
                for name, part in value.items()
            }
        elif key == "visits" and isinstance(value, Mapping) and "folder" in value:
            value = {**value, "folder": str(Path(config["paths"]["cache"]) / "prepared")}
        elif key == "train" and isinstance(value, Mapping) and value.get("init"):
            value = {**value, "init": None}  # it has weights of its own
        elif key == "reader" and isinstance(value, Mapping) and "root" in value:
            value = {**value, "root": None}
        keep = node is config and (key == "read" or not affects_result(str(key)))
        found[key] = value if keep else _without_stored_paths(value, config)
    return found


def recorded_settings(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides that are written to the side-car: all but paths."""
    return tuple(item for item in overrides if not item.startswith(("read.", "paths.")))


def changed_config(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration of a trained system with changed settings.

    ``read`` is composed anew, without settings of the training data. ``postprocess=PRESET`` and
    ``infer=PRESET`` replace a step, ``infer.overlap=0.25`` changes one existing value of it.

    Raises:
        MssegError: a group that is not in ``PREDICTION_KEYS``, an unknown key or a wrong type
            (exit 2).
    """
    overrides = [item.lstrip("+") for item in to_hydra(overrides)]  # all keys exist already
    for item in overrides:
        group = item.partition("=")[0].split(".")[0]
        if "=" not in item:
            raise _wrong(item, "key=value", f"write {item}=VALUE")
        if group not in PREDICTION_KEYS:
            raise _wrong(
                item,
                f"settings of {', '.join(PREDICTION_KEYS)}",
                "train another system for the rest",
            )
    config = copy.deepcopy(config)
    before = copy.deepcopy({group: config.get(group) for group in PREDICTION_KEYS})
    for group in PREDICTION_KEYS:
        given = [item for item in overrides if re.match(rf"{group}[.=]", item)]
        if (group == "read" and given) or any(item.startswith(f"{group}=") for item in given):
            config[group] = compose_config(given, complete=group == "read").get(group)
            continue
        for item in given:
            _set(config, item)
        refuse_types({group: before[group]}, {group: config.get(group)})
    refuse_targets(config)
    refuse_interpolations({group: config.get(group) for group in PREDICTION_KEYS})
    trainer = config.get("trainer") or {}
    config["trainer"] = {**trainer, "devices": 1, "num_nodes": 1, "strategy": "auto"}
    return config


def _set(config: Config, item: str) -> None:
    """Change one existing setting, given as ``key=value`` in Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(item)
        key, value = override.key_or_group, override.value()
    except HydraException as error:
        said = " ".join(str(error).split())[:200]
        raise _wrong(
            item, f"key=value ({said})", "put the value in quotes: \"key='value'\""
        ) from error
    *groups, last = key.split(".")
    node: Any = config
    for name in groups:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise _wrong(item, "a setting the system has", "its config.yaml lists them all")
    old = node[last]
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise _wrong(item, "a finite number", f"set {key} to a finite number")
    if isinstance(old, str) and not isinstance(value, str):
        raise _wrong(item, f"a text such as {old}", f"put the text in quotes: \"{key}='{value}'\"")
    if value is None and old is not None and groups[:2] == ["postprocess", "rules"] and groups[2:]:
        raise _wrong(item, f"a value such as {old}", f"leave the rule out: {'.'.join(groups)}=null")
    node[last] = value


def _wrong(found: str, expected: str, remedy: str) -> MssegError:
    return MssegError(
        Problem(
            "predict.setting",
            "this cannot be set when a trained system is applied",
            field=found.partition("=")[0],
            found=found,
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
    )


def load_method(model: Path, overrides: Sequence[str] = ()) -> tuple[Method, Config]:
    """Load a trained system and its configuration from a model folder; see ``load_config``."""
    config = load_config(model, overrides)
    return build_trained(model, config), config


def build_trained(model: Path, config: Config) -> Method:
    """Build the system of a configuration from ``load_config`` and load its weights.

    Raises:
        MssegError: a required setting is missing (exit 4).
    """
    try:
        method = build_method(config)
    except (KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        raise _damaged(model / "config.yaml", found) from error
    method.load(model)
    return method


def run_of(model: Path) -> RunFolder | None:
    """The run folder that contains a model folder; None if it is not in one."""
    folder = RunFolder(model.parent)
    return folder if folder.config_file.exists() else None
