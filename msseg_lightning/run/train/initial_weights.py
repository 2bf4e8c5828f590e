"""The setting ``train.init``: a trained system whose weights a training starts from."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.network.initial_weights import InitialWeights
from msseg_lightning.network.weights import CARD_NAME, WEIGHTS_NAME
from msseg_lightning.run.assemble.system import initial_folder, instantiate, stage_config
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.predict.data_set import trained_on
from msseg_lightning.run.predict.model_zip import opened_model
from msseg_lightning.run.predict.trained import load_config, weights_hash
from msseg_lightning.split.split import Split

_STORED = re.compile(r"[\w.-]+-[0-9a-f]{16}")


def with_initial_weights(config: Config) -> Config:
    """A configuration whose ``train.init`` names weights that were copied into the cache.

    The name contains the hash of the weights: a run is never continued from other ones, and the
    given run may be trained again or deleted.

    Raises:
        MssegError: there is no such model, it has no weights, or none of them fits (exit 4).
    """
    given = sorted({part["init"] for part in _trainings(config) if part.get("init")})
    if not given:
        return config
    names = {text: _stored(text, config) for text in given}
    config = _replaced(config, names)
    _refuse_without_use(config)
    return config


def refuse_seen(
    config: Config, given: Config, subjects: Mapping[str, LongitudinalSubject], split: Split
) -> None:
    """Refuse to test on pairs that the given weights were trained on.

    Known for models in their run folder, by the hash of the data.

    Args:
        config: as composed, with the places of the given models.
        given: as from ``with_initial_weights``.
        subjects: all pairs of the run.
        split: of the run.

    Raises:
        MssegError: with these pairs (exit 4).
    """
    for text in sorted({part["init"] for part in _trainings(config) if part.get("init")}):
        if _is_stored(text, given):
            continue
        with opened_model(text) as model:
            seen = sorted(set(trained_on(model, list(subjects.values()))) & set(split.test))
        if seen:
            raise MssegError(
                Problem(
                    "init.seen",
                    "the given weights were trained on pairs that this run tests with",
                    file=text,
                    field="train.init",
                    found=", ".join(seen[:10]),
                    expected="weights of a run with the same split and fold, or of other data",
                    remedy="give the run of the same fold: several folds start each from its own "
                    "with 'train.init=runs/EXPERIMENT/DATA-fold${fold}-seed0'",
                    exit_code=ExitCode.MODEL,
                )
            )


def _stored(text: str, config: Config) -> str:
    """Name of a model's weights in the cache; they are copied at the first use."""
    if _is_stored(text, config):
        return text
    with opened_model(text) as model:
        sha256 = weights_hash(model)
        if sha256 is None:
            raise MssegError(
                Problem(
                    "init.no_weights",
                    "this system has no network whose weights could be given",
                    file=text,
                    field="train.init",
                    remedy="name a model of a system with a network, or leave train.init out",
                    exit_code=ExitCode.MODEL,
                )
            )
        name = f"{load_config(model)['name']}-{sha256[:16]}"
        target = initial_folder(config, name)
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as place:
                for file in sorted(model.rglob("*")):
                    if file.name in (WEIGHTS_NAME, CARD_NAME) and file.is_file():
                        copy = Path(place) / "model" / file.relative_to(model)
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, copy)
                if not target.is_dir():
                    (Path(place) / "model").rename(target)
    return name


def _is_stored(text: str, config: Config) -> bool:
    return bool(_STORED.fullmatch(text)) and initial_folder(config, text).is_dir()


def _refuse_without_use(config: Config) -> None:
    """Refuse weights of which no network of the system can take one."""
    wanted = [part for part in _parts(config) if (part.get("train") or {}).get("init")]
    for part in wanted:
        if part.get("uses"):  # its network is complete only with an earlier stage
            return
        folder = initial_folder(config, part["train"]["init"])
        if InitialWeights.match(instantiate(part["network"]), folder) is not None:
            return
    name = wanted[0]["train"]["init"]
    raise MssegError(
        Problem(
            "init.nothing_fits",
            "none of the given weights has the name and shape of a weight of this system",
            field="train.init",
            found=name,
            expected=f"weights of a network like that of {config['name']}",
            remedy="give a model of the same network (`msseg show EXPERIMENT` prints it), or leave "
            "train.init out",
            exit_code=ExitCode.MODEL,
        )
    )


def _parts(config: Config) -> Iterator[Config]:
    """Every network of a system: the last stage, earlier stages, members."""
    members = (config.get("ensemble") or {}).get("configs") or {}
    for system in members.values() if members else [config]:
        yield system
        whole = {**config, **system}
        yield from (stage_config(whole, name) for name in system.get("stages") or {})


def _trainings(config: Config) -> Iterator[Mapping[str, Any]]:
    return (part.get("train") or {} for part in _parts(config))


def _replaced(node: Any, names: Mapping[str, str], key: str = "") -> Any:
    if isinstance(node, Mapping):
        found = {name: _replaced(value, names, name) for name, value in node.items()}
        if key == "train" and found.get("init") in names:
            found["init"] = names[found["init"]]
        return found
    return [_replaced(value, names) for value in node] if isinstance(node, list) else node
