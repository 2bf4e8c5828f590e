"""Properties of configuration keys: owner, whether they affect results, when they may change.

Run folders, stages, ensembles, searches, prediction and tracking all use this table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Owner = Literal["run", "system", "stage"]


@dataclasses.dataclass(frozen=True)
class Key:
    """Properties of a configuration key.

    Args:
        owner: ``stage``: each stage has its own value; ``system``: each member of an ensemble has
            its own value; ``run``: stages and members share the value of their run.
        affects_result: whether the result depends on it. Other settings may change when a run is
            continued and may differ between the processes of a search.
        at_prediction: whether it may be changed when a trained system is applied.
        inherited: a ``run`` setting that stages and members are built with.
        by_content: stages are compared by the bytes of the files that it names, not by the names.
        takes_network: it can receive the network of an earlier stage, see ``uses``.
        composite: it defines the networks of a system with several networks.
        names_run: it is part of the name of a run folder.
        read_by_name: no class is built from it, so only the names in ``conf/`` are used.
    """

    owner: Owner
    affects_result: bool = True
    at_prediction: bool = False
    inherited: bool = False
    by_content: bool = False
    takes_network: bool = False
    composite: bool = False
    names_run: bool = False
    read_by_name: bool = False


KEYS = {
    # the run
    "name": Key("system", names_run=True),
    "size": Key("run", names_run=True),
    "card": Key("run", affects_result=False),
    "sizes": Key("run", affects_result=False),
    "experiments": Key("run", affects_result=False),
    "experiment": Key("run", affects_result=False),  # the file of experiments/ that was composed
    "seed": Key("run", inherited=True, names_run=True),
    "fold": Key("run", names_run=True),
    "profile": Key("run", affects_result=False),
    "overwrite": Key("run", affects_result=False),
    "split": Key("run"),
    "evaluate": Key("run"),
    "track": Key("run", affects_result=False),
    "loggers": Key("run", affects_result=False, inherited=True),
    "callbacks": Key("run", inherited=True),
    "debug": Key("run"),
    "read": Key("run", at_prediction=True, inherited=True, by_content=True),
    "data": Key("run", at_prediction=True, inherited=True, read_by_name=True),
    "data.workers": Key("run", affects_result=False, at_prediction=True, inherited=True),
    "paths": Key(
        "run", affects_result=False, at_prediction=True, inherited=True, read_by_name=True
    ),
    # the hardware; devices affect only the number of batches per step, see `hardware`
    "trainer": Key("run", affects_result=False, at_prediction=True, inherited=True),
    "trainer.precision": Key("run", at_prediction=True, inherited=True),
    "trainer.sync_batchnorm": Key("run", at_prediction=True, inherited=True),
    # a system of several networks
    "stages": Key("system", composite=True),
    "ensemble": Key("system", composite=True),
    "postprocess": Key("system", at_prediction=True),
    # one network, or another fitted method
    "preprocess": Key("stage"),
    "sample": Key("stage", takes_network=True),
    "sample.loader": Key("stage", takes_network=True),
    "augment": Key("stage", takes_network=True),
    "network": Key("stage", takes_network=True),
    "loss": Key("stage", takes_network=True),
    "train": Key("stage"),
    "train.task": Key("stage", takes_network=True),
    "infer": Key("stage", at_prediction=True),
    "method": Key("stage"),
    "channels": Key("stage", read_by_name=True),
    "uses": Key("stage", composite=True),
    "maps": Key("stage"),
    "out_of_fold": Key("stage"),
}
"""Root keys, and dotted keys whose properties differ from those of their root."""

RENAMED_KEYS = {"loader": "sample.loader", "visits": "sample.visits"}
"""Root keys of earlier versions -> their new names."""

RUN_KEYS = tuple(key for key, one in KEYS.items() if one.owner == "run" and "." not in key)
"""Settings that members of an ensemble and stages share with their run."""

PREDICTION_KEYS = tuple(key for key, one in KEYS.items() if one.at_prediction and "." not in key)
"""Settings that may be changed when a trained system is applied, such as data and inference."""

COMPOSITE_KEYS = tuple(key for key, one in KEYS.items() if one.composite)
"""Settings that define the networks of a system with several networks."""

NAMING_KEYS = tuple(key for key, one in KEYS.items() if one.names_run)
"""Settings that are part of the name of a run folder."""

NETWORK_ARGUMENTS = tuple(key for key, one in KEYS.items() if one.takes_network)
"""Nodes of the configuration that can receive the network of an earlier stage."""


@dataclasses.dataclass(frozen=True)
class NestedKey:
    """Properties of a key that occurs below several other keys under the same name.

    Args:
        path: it is a path of data, caches or keys, which is neither tracked nor stored in models.
        in_stage: whether it belongs to the identity of a stage.
    """

    path: bool = True
    in_stage: bool = True


NESTED_KEYS = {
    "root": NestedKey(in_stage=False),  # the bytes of its files count
    "folder": NestedKey(in_stage=False),
    "workers": NestedKey(path=False, in_stage=False),
    "path": NestedKey(),
    "manifest": NestedKey(),
    "file": NestedKey(),
    "key_file": NestedKey(),
    "artifacts": NestedKey(),
    "cache": NestedKey(),
    "runs": NestedKey(),
    "sweeps": NestedKey(),
}
"""Last parts of dotted keys inside the steps."""


def key_of(dotted: str) -> Key:
    """Properties of a setting: those of the longest matching entry of ``KEYS``.

    A key that is not in the table counts as a ``stage`` setting that affects results.
    """
    name = dotted
    while name not in KEYS and "." in name:
        name = name.rpartition(".")[0]
    return KEYS.get(name, Key("stage"))


def unknown_root_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """Unknown root keys of a configuration and its stages -> their new names or empty."""
    parts = {"": config}
    stages = config.get("stages")
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        parts[f"stages.{name}."] = stage if isinstance(stage, Mapping) else {}
    return {
        f"{place}{key}": f"{place}{RENAMED_KEYS[key]}" if key in RENAMED_KEYS else ""
        for place, part in parts.items()
        for key in part
        if key not in KEYS
    }


def affects_result(dotted: str) -> bool:
    """Whether the result depends on a setting."""
    return key_of(dotted).affects_result


def is_path_key(name: str) -> bool:
    """Whether a key with this last part holds a path."""
    return name in NESTED_KEYS and NESTED_KEYS[name].path


def inherited_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run that its stages and members are built with."""
    return {key: config[key] for key in RUN_KEYS if KEYS[key].inherited and key in config}


def stage_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a fitted stage depends on, besides its data and the code."""
    found = {
        key: _inner(config.get(key))
        for key, one in KEYS.items()
        if "." not in key and one.affects_result and not one.by_content
        if one.owner == "stage" or one.inherited
    }
    found["data"] = _deciding("data", config["data"])
    return {**found, "hardware": hardware(config)}


def hardware(config: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware settings that the result depends on, besides the number of batches per step.

    The precision ``auto`` is resolved for this machine. With synchronised batch normalisation the
    statistics cover one batch per device; without it one device that accumulates gradients gives
    the same result as several. Compiling, memory formats and the kind of device change results only
    by rounding.
    """
    trainer = config.get("trainer") or {}
    devices = int(trainer.get("devices", 1)) * int(trainer.get("num_nodes", 1))
    batches = devices if trainer.get("sync_batchnorm") else 1
    return {"precision": precision(trainer), "batches per batch statistic": batches}


def precision(trainer: Mapping[str, Any]) -> str:
    """The precision of a training on this machine."""
    given = str(trainer.get("precision", "auto"))
    if given != "auto":
        return given
    from msseg_lightning.train.training import Hardware

    return Hardware(accelerator=trainer.get("accelerator", "auto")).resolved_precision()


def _deciding(place: str, node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {
        key: _deciding(f"{place}.{key}", value)
        for key, value in node.items()
        if affects_result(f"{place}.{key}")
    }


def _inner(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _inner(value)
            for key, value in node.items()
            if key not in NESTED_KEYS or NESTED_KEYS[key].in_stage
        }
    return [_inner(value) for value in node] if isinstance(node, list) else node
