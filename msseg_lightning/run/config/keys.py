"""Every key of a configuration: whose it is, whether it decides a result, when it may change.

The one table that run folders, stages, ensembles, searches, prediction and tracking go by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Owner = Literal["run", "system", "stage"]


@dataclasses.dataclass(frozen=True)
class Key:
    """What a setting is.

    Args:
        owner: a ``stage`` setting is each stage's own; a ``system`` setting is each member's of an
            ensemble; stages and members share a ``run`` setting with the run they belong to.
        decides: whether the result depends on it. What does not may change when a run is continued
            and may differ between the processes of a search.
        at_prediction: whether it may be changed when a trained system is applied.
        handed_down: a ``run`` setting that stages and members are built with.
        by_content: a stage is compared by the bytes of the files that it names, not by the names.
        takes_network: it can be handed the network of an earlier stage, see ``uses``.
        of_several: it says which networks a system has; one network has none of it.
        names_run: the folder of a run is named after it.
        read_by_name: no class is built from it, so a name that ``conf/`` has not is read by nobody.
    """

    owner: Owner
    decides: bool = True
    at_prediction: bool = False
    handed_down: bool = False
    by_content: bool = False
    takes_network: bool = False
    of_several: bool = False
    names_run: bool = False
    read_by_name: bool = False


KEYS = {
    # the run
    "name": Key("system", names_run=True),
    "size": Key("run", names_run=True),
    "card": Key("run", decides=False),
    "sizes": Key("run", decides=False),
    "experiments": Key("run", decides=False),
    "experiment": Key("run", decides=False),  # the file of experiments/ that was composed
    "seed": Key("run", handed_down=True, names_run=True),
    "fold": Key("run", names_run=True),
    "profile": Key("run", decides=False),
    "overwrite": Key("run", decides=False),
    "split": Key("run"),
    "evaluate": Key("run"),
    "track": Key("run", decides=False),
    "read": Key("run", at_prediction=True, handed_down=True, by_content=True),
    "data": Key("run", at_prediction=True, handed_down=True, read_by_name=True),
    "data.workers": Key("run", decides=False, at_prediction=True, handed_down=True),
    "paths": Key("run", decides=False, at_prediction=True, handed_down=True, read_by_name=True),
    # the hardware; of its devices only the batches of a step count, see `hardware`
    "trainer": Key("run", decides=False, at_prediction=True, handed_down=True),
    "trainer.precision": Key("run", at_prediction=True, handed_down=True),
    "trainer.sync_batchnorm": Key("run", at_prediction=True, handed_down=True),
    # a system of several networks
    "stages": Key("system", of_several=True),
    "ensemble": Key("system", of_several=True),
    "postprocess": Key("system", at_prediction=True),
    # one network, or what else is fitted
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
    "uses": Key("stage", of_several=True),
    "maps": Key("stage"),
    "out_of_fold": Key("stage"),
}
"""Root keys, and below them those that differ from their root."""

MOVED = {"loader": "sample.loader", "visits": "sample.visits"}
"""Root keys of earlier versions, and what they are called today."""

OF_THE_RUN = tuple(key for key, one in KEYS.items() if one.owner == "run" and "." not in key)
"""Settings that members of an ensemble and stages share with the run they belong to."""

CHANGEABLE = tuple(key for key, one in KEYS.items() if one.at_prediction and "." not in key)
"""Settings that do not touch what was trained: which data, how windows slide, which rules."""

OF_SEVERAL = tuple(key for key, one in KEYS.items() if one.of_several)
"""Settings that say which networks a system has."""

NAMES_RUN = tuple(key for key, one in KEYS.items() if one.names_run)
"""Settings by which run folders are told apart."""

TAKES_NETWORK = tuple(key for key, one in KEYS.items() if one.takes_network)
"""Nodes of the configuration that can be handed an earlier stage's network."""


@dataclasses.dataclass(frozen=True)
class Inner:
    """What a setting is that occurs below several keys under the same name.

    Args:
        place: it says where data, caches or keys lie, which is told nobody.
        in_stage: whether a stage is another one where it differs.
    """

    place: bool = True
    in_stage: bool = True


INNER = {
    "root": Inner(in_stage=False),  # the bytes of what lies there count
    "folder": Inner(in_stage=False),
    "workers": Inner(place=False, in_stage=False),
    "path": Inner(),
    "manifest": Inner(),
    "file": Inner(),
    "key_file": Inner(),
    "artifacts": Inner(),
    "cache": Inner(),
    "runs": Inner(),
    "sweeps": Inner(),
}
"""Last names of settings inside the steps."""


def key_of(dotted: str) -> Key:
    """What a setting is: the longest entry of the table that it lies below.

    A key that is not in the table counts as a stage's own that decides.
    """
    name = dotted
    while name not in KEYS and "." in name:
        name = name.rpartition(".")[0]
    return KEYS.get(name, Key("stage"))


def unknown_roots(config: Mapping[str, Any]) -> dict[str, str]:
    """Root keys of a configuration and of its stages that nothing reads: place -> today's key."""
    parts = {"": config}
    stages = config.get("stages")
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        parts[f"stages.{name}."] = stage if isinstance(stage, Mapping) else {}
    return {
        f"{place}{key}": f"{place}{MOVED[key]}" if key in MOVED else ""
        for place, part in parts.items()
        for key in part
        if key not in KEYS
    }


def decides(dotted: str) -> bool:
    """Whether the result depends on a setting."""
    return key_of(dotted).decides


def is_place(name: str) -> bool:
    """Whether the last name of a setting says where something lies."""
    return name in INNER and INNER[name].place


def handed_down(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage or a member is built with beside its own settings."""
    return {key: config[key] for key in OF_THE_RUN if KEYS[key].handed_down}


def of_a_stage(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a stage learns, beside its data and the code."""
    found = {
        key: _inner(config.get(key))
        for key, one in KEYS.items()
        if "." not in key and one.decides and not one.by_content
        if one.owner == "stage" or one.handed_down
    }
    found["data"] = _deciding("data", config["data"])
    return {**found, "hardware": hardware(config)}


def hardware(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the result depends on of the hardware, beside the batches of a step.

    ``auto`` is the precision that this machine stands for. Batch statistics over all devices are
    those over so many batches; without them one device that accumulates is as good as several.
    Compiling, memory formats and the kind of device leave results equal to rounding.
    """
    trainer = config.get("trainer") or {}
    devices = int(trainer.get("devices", 1)) * int(trainer.get("num_nodes", 1))
    together = devices if trainer.get("sync_batchnorm") else 1
    return {"precision": precision(trainer), "batches per batch statistic": together}


def precision(trainer: Mapping[str, Any]) -> str:
    """The precision of a training on this machine."""
    asked = str(trainer.get("precision", "auto"))
    if asked != "auto":
        return asked
    from msseg_lightning.train.training import Hardware

    return Hardware(accelerator=trainer.get("accelerator", "auto")).resolved_precision()


def _deciding(place: str, node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {
        key: _deciding(f"{place}.{key}", value)
        for key, value in node.items()
        if decides(f"{place}.{key}")
    }


def _inner(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _inner(value)
            for key, value in node.items()
            if key not in INNER or INNER[key].in_stage
        }
    return [_inner(value) for value in node] if isinstance(node, list) else node
