"""Building of systems, caches, loaders and other objects from a configuration."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_seed
from msseg_lightning.core.subject import RATER, LoadedSubject, LongitudinalSubject
from msseg_lightning.run.assemble.code import code_hash
from msseg_lightning.run.config.allow_list import (
    LIBRARY_CLASSES,
    refuse_imports,
    refuse_interpolations,
    refuse_targets,
)
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import (
    COMPOSITE_KEYS,
    NETWORK_ARGUMENTS,
    inherited_settings,
    stage_settings,
)
from msseg_lightning.run.folder import batches_per_step

if TYPE_CHECKING:
    from msseg_lightning.method.network_method import Channels
    from msseg_lightning.method.staged import FittedStage

NOT_SAMPLER_ARGUMENTS = ("loader", "visits", "extra_pairs")
"""Settings below ``sample`` that are not arguments of the sampler."""

FittedStages = Mapping[str, "FittedStage"]
PATCH_LOADER = {"_target_": "msseg_lightning.sample.loader.PatchLoader"}
"""Default of ``sample.loader``."""

Load = Callable[[LongitudinalSubject], LoadedSubject]


def instantiate(node: Any, partial: bool = False) -> Any:
    """Build an object from a node with ``_target_``; with ``partial`` a callable that builds it.

    Raises:
        MssegError: the error of the object itself, or arguments that it does not accept (exit 2); a
            class that may not be built, or an interpolation (exit 6).
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build
    from omegaconf.errors import OmegaConfBaseException

    if node is None:
        return None
    refuse_targets(node, anywhere=True)  # compose_config has checked each at its place
    refuse_interpolations(node)
    refuse_imports(node)
    try:
        return build(node, _convert_="all", _partial_=partial)
    except OmegaConfBaseException as error:  # a set or a date, which no setting may be
        raise MssegError(_refused(_name(node), error)) from error
    except InstantiationException as error:
        if isinstance(error.__cause__, MssegError):
            raise error.__cause__ from None
        raise MssegError(_refused(_name(node), error.__cause__ or error)) from error


def _build(name: str, make: Callable[..., Any], /, **arguments: Any) -> Any:
    """Build an object; its TypeError or ValueError becomes a refusal (exit 2)."""
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise MssegError(_refused(name, error)) from error


def _name(node: Any) -> str:
    """Key of the step that a class belongs to, with its name: ``sample (RatioSampler)``."""
    target = str(node.get("_target_", "")) if isinstance(node, Mapping) else ""
    package, _, rest = target.partition(".")
    step = rest.partition(".")[0]
    if package != "msseg_lightning":
        step = next((key for key, known in LIBRARY_CLASSES.items() if target in known), "")
        step = f"train.{step}" if step in ("optimizer", "scheduler") else step
    name = target.rpartition(".")[2]
    return f"{step} ({name})" if step else name


def _refused(name: str, error: BaseException) -> Problem:
    """Refusal of arguments that a class does not accept."""
    return Problem(
        "config.value",
        f"this setting cannot be used: {' '.join(str(error).split())[:400]}",
        field=name,
        remedy="`msseg show EXPERIMENT` prints every setting",
        exit_code=ExitCode.CONFIG,
    )


def build_load(config: Config) -> Load:
    """A function that reads and checks a pair with the options of a configuration."""
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.nifti import gate_options

    return functools.partial(load_subject, options=gate_options(config["data"]["reading"]))


def build_has_lesions(config: Config) -> Callable[[LongitudinalSubject], bool | None]:
    """A function that tells whether the reference of a pair has new lesions; None without one."""
    from msseg_lightning.read.nifti import gate_options
    from msseg_lightning.read.reference import has_new_lesions

    return functools.partial(has_new_lesions, options=gate_options(config["data"]["reading"]))


def build_cache(config: Config) -> Any:
    """The cache of prepared pairs under ``paths.cache``."""
    from msseg_lightning.preprocess.cache import PreparedCache
    from msseg_lightning.preprocess.pipeline import Preprocess
    from msseg_lightning.read.nifti import LABEL_RULES, changed_options

    steps = [instantiate(step) for step in config["preprocess"]["steps"].values() if step]
    reading = changed_options(config["data"]["reading"])  # prepared pairs depend on them
    rules = {**reading, "label_rules": LABEL_RULES}
    kind = f"-{keyed_seed(json.dumps(rules, sort_keys=True)):016x}" if reading else ""
    return PreparedCache(
        Path(config["paths"]["cache"]) / f"prepared{kind}",
        Preprocess(steps),
        build_load(config),
        workers=config["data"]["workers"],
        raters=[text for text in _texts(config) if text.startswith(RATER)],
    )


def _texts(node: Any) -> Iterator[str]:
    """All strings among the values of a configuration."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(value)


def build_method(config: Config) -> Method:
    """Build a system: an ensemble, a graph of stages, a network, or a method without gradients."""
    if config.get("ensemble") and not _shares_stages(config):
        return _ensemble(config)
    if config.get("stages"):
        return _staged(config)
    return _build_single(config)


def _build_single(config: Config, fitted: FittedStages | None = None) -> Any:
    """Build a system of one network, or a method without gradients.

    Args:
        config: resolved.
        fitted: earlier stages, whose networks become arguments according to ``uses``.
    """
    cache = build_cache(config)
    method = instantiate(config["method"], partial=True)
    rules = postprocess_rules(config)
    if config.get("network") is None:
        optional = {"postprocess": rules} if rules else {}
        return _build(_name(config["method"]), method, cache=cache, **optional)

    import torch

    from msseg_lightning.train.training import Hardware, Training

    extra, images = _stage_arguments(config, fitted or {})
    torch.manual_seed(keyed_seed(config["seed"], "weights") >> 1)
    train = dict(config["train"])
    nodes = {name: train.pop(name) for name in ("task", "optimizer", "scheduler")}
    train.pop("_target_")
    init = train.pop("init", None)
    optimizer = instantiate(nodes["optimizer"], partial=True)
    scheduler = instantiate(nodes["scheduler"], partial=True)
    _try_optimizer(nodes["optimizer"], optimizer, scheduler)
    node = dict(nodes["task"])
    if "cut" in node:  # validation batches are sampled like those of training
        cut = instantiate(node.pop("cut"), partial=True)
        extra["train.task"]["cut"] = functools.partial(cut, sampler=build_sampler(config))
    task = _build(
        _name(nodes["task"]),
        instantiate(node, partial=True),
        network=_complete(config["network"], extra["network"]),
        loss=_complete(config["loss"], extra["loss"]),
        optimizer=optimizer,
        scheduler=scheduler,
        seed=config["seed"],
        **extra["train.task"],
    )
    further = ((config.get("sample") or {}).get("extra_pairs") or {}).get("reader") or {}
    more: dict[str, Any] = {}
    if init:
        more["initial"] = _initial_weights(config, init, task.network)
    if config.get("loggers"):
        more["loggers"] = [_logger(node) for node in config["loggers"]]
    if config.get("callbacks"):
        more["callbacks"] = [instantiate(node) for node in config["callbacks"]]
    return _build(
        _name(config["method"]),
        method,
        cache=cache,
        channels=_channels(config),
        # built now, so that a wrong patch size is reported before all pairs are prepared
        patches=build_loader(config, extra),
        task=task,
        training=_build("train", Training, **train),
        infer=instantiate(config["infer"]),
        score=monitor_scores,
        name=config["name"],
        postprocess=rules,
        hardware=_build("trainer", Hardware, **config["trainer"]),
        derived=images,
        visits=instantiate((config.get("sample") or {}).get("visits")),
        extra=instantiate(further) if further.get("root") else None,
        **more,
    )


LOGGERS = {"csv": "CSVLogger", "tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
"""Short name of a logger -> class of Lightning."""

LOGGER_PACKAGES = {"TensorBoardLogger": "tensorboard", "WandbLogger": "wandb"}


def _logger(node: Any) -> Callable[..., Any]:
    """A function that makes a logger in a folder (``save_dir``); W&B stays offline by default.

    Raises:
        MssegError: its package is not installed (exit 5), or there is no such logger (exit 2).
    """
    if isinstance(node, str):
        if node not in LOGGERS:
            raise MssegError(_refused("loggers", ValueError(f"{node}: give {', '.join(LOGGERS)}")))
        node = {"_target_": f"lightning.pytorch.loggers.{LOGGERS[node]}"}
    name = _name(node)
    package = LOGGER_PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise MssegError(
            Problem(
                "loggers.missing",
                f"{package} is not installed",
                field="loggers",
                found=name,
                remedy=f"pip install {package}, or leave this logger out",
                exit_code=ExitCode.ENVIRONMENT,
            )
        )
    if name == "WandbLogger":
        node = {"offline": True, **node}
    return cast(Callable[..., Any], instantiate(node, partial=True))


def initial_folder(config: Config, name: str) -> Path:
    """Where the cache keeps the weights that ``train.init`` names."""
    return Path(config["paths"]["cache"]) / "initial" / name


def _initial_weights(config: Config, name: str, network: Any) -> Any:
    """Weights that a network starts from; None where none fits.

    A stage that is fitted out of fold starts anew: the given network may know its held-out pairs.
    """
    from msseg_lightning.network.initial_weights import InitialWeights

    if (config.get("out_of_fold") or 1) > 1:
        return None
    return InitialWeights.match(network, initial_folder(config, name))


def build_sampler(config: Config, arguments: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Build the sampler from ``sample`` without its keys ``NOT_SAMPLER_ARGUMENTS``; None if empty.

    Args:
        config: of one network.
        arguments: further arguments that are objects.
    """
    sample = config.get("sample") or {}
    own = {key: value for key, value in sample.items() if key not in NOT_SAMPLER_ARGUMENTS}
    return _complete(own or None, arguments)


def _channels(config: Config) -> Channels:
    """Input images and target masks of a network."""
    from msseg_lightning.method.network_method import Channels

    named = config["channels"]
    further = tuple(named.get("further_targets") or ())
    return Channels(tuple(named["images"]), named["target"], further)


def build_loader(
    config: Config, extra: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Callable[..., Any]:
    """A function that builds the loader of prepared pairs from ``sample.loader`` and the sampler.

    Args:
        config: of one network.
        extra: node -> further arguments that are objects.
    """
    channels = _channels(config)
    return functools.partial(
        instantiate((config.get("sample") or {}).get("loader", PATCH_LOADER), partial=True),
        sampler=build_sampler(config, extra.get("sample", {})),
        augment=_complete(config["augment"], extra.get("augment", {})),
        image_names=channels.images,
        target_names=channels.targets,
        batch_size=config["train"]["batch_size"],
        seed=config["seed"],
        **extra.get("sample.loader", {}),
    )


def _complete(node: Any, arguments: Mapping[str, Any]) -> Any:
    """Build a node with further arguments that are objects."""
    if not arguments:
        return instantiate(node)
    return _build(_name(node), instantiate(node, partial=True), **arguments)


def _stage_arguments(
    config: Config, fitted: FittedStages
) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """Networks and images of earlier stages that ``uses`` passes to nodes.

    Raises:
        MssegError: ``uses`` names a node that cannot receive a stage (exit 2).
    """
    extra: dict[str, dict[str, Any]] = {node: {} for node in NETWORK_ARGUMENTS}
    images = []
    for place, stage in (config.get("uses") or {}).items():
        node, _, argument = str(place).rpartition(".")
        if node == "images":
            if stage in fitted:
                images.append(fitted[stage].image(argument))
        elif node not in extra:
            raise MssegError(
                Problem(
                    "config.uses",
                    "this setting cannot receive a stage",
                    field=f"uses.{place}",
                    found=str(stage),
                    expected=", ".join(
                        f"{name}.ARGUMENT" for name in (*NETWORK_ARGUMENTS, "images")
                    ),
                    remedy="see `uses` in an experiment with stages",
                    exit_code=ExitCode.CONFIG,
                )
            )
        elif stage in fitted:
            extra[node][argument] = fitted[stage].network()
    return extra, images


def _staged(config: Config) -> Method:
    from msseg_lightning.method.staged import Stage, StagedMethod

    stages: list[Stage] = []
    maps: dict[str, Any] = {}
    for name in config["stages"]:
        part = stage_config(config, name)
        _check_uses(part, name, [stage.name for stage in stages])
        if part.get("maps"):
            maps[name] = instantiate(part["maps"])
        own = part["read"] != config["read"]
        settings = {**_deciding_settings(part), "files": reader_files(part)}
        stages.append(
            Stage(
                name=name,
                settings=settings,
                make=functools.partial(_build_single, part),
                store=Path(config["paths"]["cache"]) / "stages",
                code=code_hash(settings),
                subjects=instantiate(part["read"]).subjects if own else None,
                out_of_fold=part.get("out_of_fold") or 1,
                has_lesions=build_has_lesions(part),
                uses=tuple(dict.fromkeys((part.get("uses") or {}).values())),
                maps=maps.get(name),
            )
        )
    _check_uses(config, "the last stage", [stage.name for stage in stages])
    settings = {**_deciding_settings(config), "files": reader_files(config)}
    shared = _shares_stages(config)
    settings |= {"ensemble": config["ensemble"]} if shared else {}
    return StagedMethod(
        stages=stages,
        make=functools.partial(_ensemble if shared else _build_single, config),
        settings=settings,
        code=code_hash(settings),
        images={
            str(place).removeprefix("images."): stage
            for place, stage in (config.get("uses") or {}).items()
            if str(place).startswith("images.")
        },
        maps=maps,
        joint=shared and config["ensemble"]["folds"] > 1,
    )


def _check_uses(config: Config, name: str, earlier: Sequence[str]) -> None:
    unknown = sorted(set((config.get("uses") or {}).values()) - set(earlier))
    if unknown:
        raise MssegError(
            Problem(
                "config.uses",
                f"{name} uses a stage that is not fitted before it",
                field="uses",
                found=", ".join(unknown),
                expected=", ".join(earlier) or "there is no earlier stage",
                remedy="name an earlier stage, or change their order",
                exit_code=ExitCode.CONFIG,
            )
        )


def _deciding_settings(config: Config) -> dict[str, Any]:
    found = stage_settings(config)
    train = {key: value for key, value in (found["train"] or {}).items() if key != "accumulate"}
    return {**found, "train": train, "batches_per_step": batches_per_step(config)}


def reader_files(node: Any) -> dict[str, str]:
    """SHA-256 of all files of readers inside a configuration, which read data besides the run's.

    Args:
        node: configuration with readers as ``reader: {_target_: ..., root: FOLDER}``.
    """
    return {
        f"{subject.id}/{name}": input_hash(file)
        for reader in _readers(node)
        for subject in instantiate(reader).subjects()
        for name, file in subject.files().items()
    }


def _readers(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "reader" and isinstance(value, Mapping) and value.get("root"):
                yield value
            elif key not in (*COMPOSITE_KEYS, "read"):
                yield from _readers(value)


def further_subjects(config: Config) -> list[LongitudinalSubject]:
    """Subjects that stages and members are trained on besides the pairs of the run."""
    readers: dict[str, Any] = {}
    for system in _systems(config):
        for part in (system, *(stage_config(system, name) for name in system.get("stages") or {})):
            own = [part["read"]] if part["read"] != config["read"] else []
            readers |= {repr(reader): reader for reader in (*own, *_readers(part))}
    return [subject for reader in readers.values() for subject in instantiate(reader).subjects()]


def stage_config(config: Config, name: str) -> Config:
    """The complete configuration of a stage: its own settings and those of the run."""
    return {
        **inherited_settings(config),
        "postprocess": None,
        **config["stages"][name],
        "name": config["name"],
    }


def _shares_stages(config: Config) -> bool:
    """Whether the members of an ensemble are last stages that use the same earlier ones."""
    return bool((config.get("ensemble") or {}).get("share_stages") and config.get("stages"))


def _ensemble(config: Config, fitted: FittedStages | None = None) -> Any:
    """Build an ensemble.

    Args:
        config: resolved.
        fitted: earlier stages that its members share; None where each has its own.
    """
    from msseg_lightning.method.ensemble import EnsembleMethod

    ensemble = config["ensemble"]
    members = _members(config)
    own = build_method if fitted is None else functools.partial(_build_single, fitted=fitted)
    return EnsembleMethod(
        {name: functools.partial(own, member) for name, member in members.items()},
        folds=ensemble["folds"],
        has_lesions=build_has_lesions(config),
        level=ensemble["level"],
        rule=ensemble["rule"],
        postprocess=postprocess_rules(config),
        of_fold=ensemble.get("of_fold"),
    )


def number_of_maps(config: Config) -> int:
    """Number of outputs that a prediction combines, over members and views, flips or passes."""
    if not config.get("ensemble"):
        return int(getattr(instantiate(config.get("infer")), "maps", 1))
    ensemble, members = config["ensemble"], _members(config)
    fitted = ensemble.get("of_fold") or [name for name in members for _ in range(ensemble["folds"])]
    return sum(number_of_maps(members[name]) for name in fitted)


def _members(config: Config) -> dict[str, Config]:
    """The systems of an ensemble: several experiments, or one system on several folds.

    With ``seeds: N`` each occurs N times, with seeds derived from that of the run.
    """
    ensemble = config["ensemble"]
    configs = ensemble.get("configs") or {config["name"]: {**config, "ensemble": None}}
    shared = inherited_settings(config)
    members = {name: {**member, **shared} for name, member in configs.items()}
    seeds = ensemble.get("seeds") or 1
    if seeds == 1:
        return members
    return {
        f"{name}-seed{number}": {**member, "seed": keyed_seed(config["seed"], "member", number)}
        for number in range(seeds)
        for name, member in members.items()
    }


def _systems(config: Config) -> list[Config]:
    """The systems that are fitted: the members of an ensemble, or the one system."""
    return list(_members(config).values()) if config.get("ensemble") else [config]


def check_buildable(config: Config) -> None:
    """Build the system, and every member of an ensemble, to find invalid settings early.

    Raises:
        MssegError: an invalid setting (exit 2).
    """
    build_method(config)  # of an ensemble this builds no member
    if config.get("ensemble"):
        for member in _members(config).values():
            build_method(member)


def require_hardware(config: Config) -> None:
    """Check that the devices of a training are in this machine, before any work starts.

    Raises:
        MssegError: they are not (exit 5); there is no such accelerator (exit 2).
    """
    parts = [
        part for one in _systems(config) for part in (one, *(one.get("stages") or {}).values())
    ]
    if any(part.get("network") for part in parts):
        from msseg_lightning.train.training import Hardware

        _build("trainer", Hardware, **config["trainer"]).require()


def postprocess_rules(config: Config) -> list[Any]:
    """Build the postprocessing rules, in order."""
    rules = (config.get("postprocess") or {}).get("rules", {})
    return [instantiate(rule) for rule in (rules or {}).values() if rule]


def monitor_scores(mask: Any, reference: Any, spacing_mm: Any) -> dict[str, float]:
    """Scores of a whole volume by which checkpoints are chosen."""
    from msseg_lightning.evaluate import metric

    if not reference.any():
        return {"false_lesions": metric.false_lesions(mask, reference, spacing_mm)}
    return {
        "dice": metric.dice(mask, reference, spacing_mm),
        "lesion_f1": metric.lesion_f1(mask, reference, spacing_mm),
        "lesion_sensitivity": metric.lesion_sensitivity(mask, reference, spacing_mm),
    }


def _try_optimizer(node: Any, optimizer: Any, scheduler: Any) -> None:
    """Build optimizer and scheduler for a single weight, so that invalid settings fail early."""
    import torch

    try:
        built = optimizer([torch.nn.Parameter(torch.zeros(1))])
        if scheduler is not None:
            scheduler(built)
    except (TypeError, ValueError) as error:
        raise MssegError(_refused(_name(node), error)) from error
