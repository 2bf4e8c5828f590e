"""From a configuration to objects: the only place where the two meet."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_seed
from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject
from msseg_lightning.run.compose import Config

Load = Callable[[LongitudinalSubject], LoadedSubject]


def instantiate(node: Any, partial: bool = False) -> Any:
    """Build an object and everything inside it; with ``partial`` the caller completes it.

    Raises:
        MssegError: what the object itself said, or that it refused a setting (exit 2).
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build

    if node is None:
        return None
    try:
        return build(node, _convert_="all", _partial_=partial)
    except InstantiationException as error:
        if isinstance(error.__cause__, MssegError):
            raise error.__cause__ from None
        raise MssegError(_refused(node, error.__cause__ or error)) from error


def _refused(node: Any, error: BaseException) -> Problem:
    """A class that does not take what the configuration gives it."""
    target = str(node.get("_target_", "")) if isinstance(node, Mapping) else ""
    return Problem(
        "config.value",
        f"this setting cannot be used: {' '.join(str(error).split())[:400]}",
        field=target.rpartition(".")[2],
        remedy="`msseg show EXPERIMENT` prints every setting",
        exit_code=ExitCode.CONFIG,
    )


def build_load(config: Config) -> Load:
    """The gate with this configuration's options."""
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.nifti import gate_options

    return functools.partial(load_subject, options=gate_options(config["data"]["reading"]))


def build_cache(config: Config) -> Any:
    """Prepares pairs as the configuration says and keeps them under ``paths.cache``."""
    from msseg_lightning.preprocess.cache import PreparedCache
    from msseg_lightning.preprocess.pipeline import Preprocess

    steps = [instantiate(step) for step in config["preprocess"]["steps"].values() if step]
    reading = config["data"]["reading"]
    # what the gate was told decides what is read, and what it would refuse
    kind = f"-{keyed_seed(json.dumps(reading, sort_keys=True)):016x}" if reading else ""
    return PreparedCache(
        Path(config["paths"]["cache"]) / f"prepared{kind}",
        Preprocess(steps),
        build_load(config),
        workers=config["data"]["workers"],
    )


def build_method(config: Config, loggers: Sequence[object] = ()) -> Method:
    """The system: a network with everything around it, or a method without gradients."""
    cache = build_cache(config)
    method = instantiate(config["method"], partial=True)
    rules = [
        instantiate(rule) for rule in (config.get("postprocess") or {}).get("rules", {}).values()
    ]
    if config.get("network") is None:
        return method(cache=cache, **({"postprocess": rules} if rules else {}))

    import torch

    from msseg_lightning.method.network_method import Channels
    from msseg_lightning.train.training import Hardware, Training

    torch.manual_seed(keyed_seed(config["seed"], "weights") >> 1)
    train = dict(config["train"])
    pieces = {name: train.pop(name) for name in ("task", "optimizer", "scheduler")}
    train.pop("_target_")
    optimizer = instantiate(pieces["optimizer"], partial=True)
    scheduler = instantiate(pieces["scheduler"], partial=True)
    _try_optimizer(pieces["optimizer"], optimizer, scheduler)
    task = instantiate(pieces["task"], partial=True)(
        network=instantiate(config["network"]),
        loss=instantiate(config["loss"]),
        optimizer=optimizer,
        scheduler=scheduler,
        seed=config["seed"],
    )
    channels = Channels(tuple(config["channels"]["images"]), config["channels"]["target"])
    return method(
        cache=cache,
        channels=channels,
        # built now: a wrong patch size must not wait until every pair is prepared
        patches=functools.partial(
            _patches,
            config,
            channels,
            instantiate(config["sample"]),
            instantiate(config["augment"]),
        ),
        task=task,
        training=Training(**train),
        infer=instantiate(config["infer"]),
        score=monitor_scores,
        name=config["name"],
        postprocess=rules,
        hardware=Hardware(**config["trainer"]),
        loggers=loggers,
    )


def monitor_scores(mask: Any, reference: Any, spacing_mm: Any) -> dict[str, float]:
    """Whole-volume scores by which checkpoints are chosen; NaN where undefined."""
    from msseg_lightning.evaluate import metric

    if not reference.any():
        return {"false_lesions": metric.false_lesions(mask, reference, spacing_mm)}
    return {
        "dice": metric.dice(mask, reference, spacing_mm),
        "lesion_f1": metric.lesion_f1(mask, reference, spacing_mm),
        "lesion_sensitivity": metric.lesion_sensitivity(mask, reference, spacing_mm),
    }


def _try_optimizer(node: Any, optimizer: Any, scheduler: Any) -> None:
    """Build both once for a single weight, so that a rate out of range is refused at the start."""
    import torch

    try:
        built = optimizer([torch.nn.Parameter(torch.zeros(1))])
        if scheduler is not None:
            scheduler(built)
    except (TypeError, ValueError) as error:
        raise MssegError(_refused(node, error)) from error


def _patches(
    config: Mapping[str, Any],
    channels: Any,
    sampler: Any,
    augment: Any,
    subjects: Sequence[Any],
) -> Any:
    from msseg_lightning.sample.loader import PatchLoader

    return PatchLoader(
        subjects=subjects,
        sampler=sampler,
        augment=augment,
        image_names=channels.images,
        target_names=(channels.target,),
        batch_size=config["train"]["batch_size"],
        seed=config["seed"],
    )
