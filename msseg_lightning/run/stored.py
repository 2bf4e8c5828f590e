"""Trained systems as they lie in a folder: found, checked, changed where that is safe, loaded."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.build import build_method
from msseg_lightning.run.compose import Config, compose_config
from msseg_lightning.run.fence import refuse_interpolations, refuse_targets
from msseg_lightning.run.folder import RunFolder, read_config
from msseg_lightning.run.keys import CHANGEABLE, NEEDED

LOADER = {"_target_": "msseg_lightning.sample.loader.PatchLoader"}


def weights_hash(model: Path) -> str | None:
    """SHA-256 of the weights, over all files where there are several; None without any."""
    files = sorted(model.rglob("weights.safetensors"))
    if len(files) > 1:
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
    return sha256_file(files[0]) if files else None


def stored_config(model: Path) -> Config:
    """The configuration that lies beside a model; empty where there is none.

    Raises:
        MssegError: it is damaged, or holds more than plain values (exit 4).
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
    """The model folder that a run folder, MLflow run id or registered model name stands for.

    Raises:
        MssegError: there is none, or its run is not that far (exit 4).
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
    """The configuration of a trained system, checked at every depth before anything is built.

    Args:
        model: model folder, from ``find_model``.
        overrides: settings of ``CHANGEABLE``, see ``changed_config``.

    Raises:
        MssegError: it is damaged (exit 4), names a class that may not be built, or holds an
            interpolation (exit 6); a setting is unknown or would change what was trained (exit 2).
    """
    from msseg_lightning.read.nifti import GATE_DEFAULTS

    config = stored_config(model)
    refuse_targets(config)
    refuse_interpolations(config)
    missing = [key for key in NEEDED if key not in config]
    if missing:
        raise _damaged(model / "config.yaml", f"nothing under {', '.join(missing)}")
    for key, value in {"loader": LOADER, "stages": {}, "uses": {}, "ensemble": None}.items():
        config.setdefault(key, value)  # systems trained before these settings existed
    config["data"] = {**config["data"], "reading": {**GATE_DEFAULTS, **config["data"]["reading"]}}
    return changed_config(config, overrides)


def recorded_settings(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those that say how a mask was made, not where its data lay."""
    return tuple(item for item in overrides if not item.startswith(("read.", "paths.")))


def changed_config(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration of a trained system with another data set and, if wanted, other rules.

    ``read`` is composed anew: nothing of the training data's reader stays. ``postprocess=PRESET``
    and ``infer=PRESET`` replace a step, ``infer.overlap=0.25`` changes one known value of it.

    Raises:
        MssegError: a group that is not in ``CHANGEABLE``, an unknown key or a type (exit 2).
    """
    overrides = [item.lstrip("+") for item in overrides]  # whatever is known, is there
    for item in overrides:
        group = item.partition("=")[0].split(".")[0]
        if group not in CHANGEABLE:
            raise _wrong(
                item, f"settings of {', '.join(CHANGEABLE)}", "train another system for the rest"
            )
    config = copy.deepcopy(config)
    for group in CHANGEABLE:
        mine = [item for item in overrides if re.match(rf"{group}[.=]", item)]
        if (group == "read" and mine) or any(item.startswith(f"{group}=") for item in mine):
            config[group] = compose_config(mine, complete=group == "read")[group]
            continue
        for item in mine:
            key, _, text = item.partition("=")
            _set(config, key, yaml.safe_load(text))
    refuse_targets(config)
    config["trainer"] = {**config["trainer"], "devices": 1, "num_nodes": 1, "strategy": "auto"}
    return config


def _set(config: Config, key: str, value: Any) -> None:
    """Change one dotted setting that exists already."""
    *groups, last = key.split(".")
    node: Any = config
    for name in groups:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise _wrong(key, "a setting the system has", "its config.yaml lists them all")
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
    """Rebuild a trained system from its folder; see ``load_config``."""
    config = load_config(model, overrides)
    method = build_method(config)
    method.load(model)
    return method, config


def run_of(model: Path) -> RunFolder | None:
    """The run a model folder belongs to, if it lies in one."""
    folder = RunFolder(model.parent)
    return folder if folder.config_file.exists() else None
