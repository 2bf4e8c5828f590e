"""Building of objects from a configuration."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_seed
from msseg_lightning.core.subject import RATER, LoadedSubject, LongitudinalSubject
from msseg_lightning.run.assemble.code import code_hash
from msseg_lightning.run.config.allow_list import (
    refuse_imports,
    refuse_interpolations,
    refuse_targets,
)
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import OF_SEVERAL, TAKES_NETWORK, handed_down, of_a_stage
from msseg_lightning.run.folder import batches_per_step

if TYPE_CHECKING:
    from msseg_lightning.method.network_method import Channels
    from msseg_lightning.method.staged import FittedStage

BESIDE_SAMPLER = ("loader", "visits", "extra_pairs")
"""Settings below ``sample`` that are no arguments of the sampler."""

Given = Mapping[str, "FittedStage"]
PATCH_LOADER = {"_target_": "msseg_lightning.sample.loader.PatchLoader"}
"""Where ``sample`` names no loader: most samplers draw boxes."""

Load = Callable[[LongitudinalSubject], LoadedSubject]


def instantiate(node: Any, partial: bool = False) -> Any:
    """Build an object and its arguments; with ``partial`` the caller completes it.

    Raises:
        MssegError: what the object itself said, or that it refused a setting (exit 2); a class that
            may not be built, or an interpolation (exit 6): a run folder may be another's.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build
    from omegaconf.errors import OmegaConfBaseException

    if node is None:
        return None
    refuse_targets(node, anywhere=True)  # at its place each was looked at with the whole
    refuse_interpolations(node)
    refuse_imports(node)
    try:
        return build(node, _convert_="all", _partial_=partial)
    except OmegaConfBaseException as error:  # a set or a date: no value of a setting
        raise MssegError(_refused(_name(node), error)) from error
    except InstantiationException as error:
        if isinstance(error.__cause__, MssegError):
            raise error.__cause__ from None
        raise MssegError(_refused(_name(node), error.__cause__ or error)) from error


def _build(name: str, make: Callable[..., Any], /, **arguments: Any) -> Any:
    """Build an object; its errors on settings are refusals (exit 2)."""
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise MssegError(_refused(name, error)) from error


def _name(node: Any) -> str:
    target = str(node.get("_target_", "")) if isinstance(node, Mapping) else ""
    return target.rpartition(".")[2]


def _refused(name: str, error: BaseException) -> Problem:
    """Refusal of arguments that a class does not take."""
    return Problem(
        "config.value",
        f"this setting cannot be used: {' '.join(str(error).split())[:400]}",
        field=name,
        remedy="`msseg show EXPERIMENT` prints every setting",
        exit_code=ExitCode.CONFIG,
    )


def build_load(config: Config) -> Load:
    """The function that reads and checks a pair with this configuration's options."""
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.nifti import gate_options

    return functools.partial(load_subject, options=gate_options(config["data"]["reading"]))


def build_has_lesions(config: Config) -> Callable[[LongitudinalSubject], bool | None]:
    """Tells whether a pair has new lesions, by its reference; None where it has none."""
    from msseg_lightning.read.nifti import gate_options
    from msseg_lightning.read.reference import has_new_lesions

    return functools.partial(has_new_lesions, options=gate_options(config["data"]["reading"]))


def build_cache(config: Config) -> Any:
    """The cache of prepared pairs under ``paths.cache``."""
    from msseg_lightning.preprocess.cache import PreparedCache
    from msseg_lightning.preprocess.pipeline import Preprocess
    from msseg_lightning.read.nifti import LABEL_RULES, changed_options

    steps = [instantiate(step) for step in config["preprocess"]["steps"].values() if step]
    reading = changed_options(config["data"]["reading"])  # decide what is read, or refused
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
    """Every text among the values of a configuration."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(value)


def build_method(config: Config) -> Method:
    """The system: an ensemble, a graph of stages, a network, or a method without gradients."""
    if config.get("ensemble"):
        return _ensemble(config)
    if config.get("stages"):
        return _staged(config)
    return _single(config)


def _single(config: Config, given: Given | None = None) -> Any:
    """A system of one network, or a method without gradients.

    Args:
        config: resolved.
        given: stage -> what it left; its networks become arguments as ``uses`` says.
    """
    cache = build_cache(config)
    method = instantiate(config["method"], partial=True)
    rules = postprocess_rules(config)
    if config.get("network") is None:
        given_rules = {"postprocess": rules} if rules else {}
        return _build(_name(config["method"]), method, cache=cache, **given_rules)

    import torch

    from msseg_lightning.train.training import Hardware, Training

    extra, images = _given_to(config, given or {})
    torch.manual_seed(keyed_seed(config["seed"], "weights") >> 1)
    train = dict(config["train"])
    pieces = {name: train.pop(name) for name in ("task", "optimizer", "scheduler")}
    train.pop("_target_")
    optimizer = instantiate(pieces["optimizer"], partial=True)
    scheduler = instantiate(pieces["scheduler"], partial=True)
    _try_optimizer(pieces["optimizer"], optimizer, scheduler)
    node = dict(pieces["task"])
    if "cut" in node:  # batches of validation pairs lie where those of training do
        cut = instantiate(node.pop("cut"), partial=True)
        extra["train.task"]["cut"] = functools.partial(cut, sampler=build_sampler(config))
    task = _build(
        _name(pieces["task"]),
        instantiate(node, partial=True),
        network=_complete(config["network"], extra["network"]),
        loss=_complete(config["loss"], extra["loss"]),
        optimizer=optimizer,
        scheduler=scheduler,
        seed=config["seed"],
        **extra["train.task"],
    )
    further = ((config.get("sample") or {}).get("extra_pairs") or {}).get("reader") or {}
    return _build(
        _name(config["method"]),
        method,
        cache=cache,
        channels=_channels(config),
        # built now: a wrong patch size must not wait until every pair is prepared
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
    )


def build_sampler(config: Config, arguments: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The sampler that ``sample`` is, beside its ``loader`` and what else is read; None without.

    Args:
        config: of one network.
        arguments: objects that no configuration can hold.
    """
    sample = config.get("sample") or {}
    own = {key: value for key, value in sample.items() if key not in BESIDE_SAMPLER}
    return _complete(own or None, arguments)


def _channels(config: Config) -> Channels:
    """The images a network is given and the masks it learns."""
    from msseg_lightning.method.network_method import Channels

    named = config["channels"]
    further = tuple(named.get("further_targets") or ())
    return Channels(tuple(named["images"]), named["target"], further)


def build_loader(
    config: Config, extra: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Callable[..., Any]:
    """Makes the loader of prepared pairs: ``sample.loader``, given the sampler that ``sample`` is.

    Args:
        config: of one network.
        extra: node -> objects for arguments that no configuration can hold.
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
    """Build a node with objects that no configuration can hold."""
    if not arguments:
        return instantiate(node)
    return _build(_name(node), instantiate(node, partial=True), **arguments)


def _given_to(config: Config, given: Given) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """Arguments and images that stages give to nodes by ``uses``.

    Raises:
        MssegError: it names a node that takes nothing (exit 2).
    """
    extra: dict[str, dict[str, Any]] = {node: {} for node in TAKES_NETWORK}
    images = []
    for place, stage in (config.get("uses") or {}).items():
        node, _, argument = str(place).rpartition(".")
        if node == "images":
            if stage in given:
                images.append(given[stage].image(argument))
        elif node not in extra:
            raise MssegError(
                Problem(
                    "config.uses",
                    "nothing there can be handed a stage",
                    field=f"uses.{place}",
                    found=str(stage),
                    expected=", ".join(f"{name}.ARGUMENT" for name in (*TAKES_NETWORK, "images")),
                    remedy="see `uses` in an experiment with stages",
                    exit_code=ExitCode.CONFIG,
                )
            )
        elif stage in given:
            extra[node][argument] = given[stage].network()
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
                make=functools.partial(_single, part),
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
    return StagedMethod(
        stages=stages,
        make=functools.partial(_single, config),
        settings=settings,
        code=code_hash(settings),
        images={
            str(place).removeprefix("images."): stage
            for place, stage in (config.get("uses") or {}).items()
            if str(place).startswith("images.")
        },
        maps=maps,
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
                expected=", ".join(earlier) or "no stage stands before it",
                remedy="name an earlier stage, or change their order",
                exit_code=ExitCode.CONFIG,
            )
        )


def _deciding_settings(config: Config) -> dict[str, Any]:
    found = of_a_stage(config)
    train = {key: value for key, value in (found["train"] or {}).items() if key != "accumulate"}
    return {**found, "train": train, "batches_per_step": batches_per_step(config)}


def reader_files(node: Any) -> dict[str, str]:
    """SHA-256 of every file that readers inside a stage's parts list: data beside the run's own.

    Args:
        node: configuration; readers stand in it as ``reader: {_target_: ..., root: FOLDER}``.
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
            elif key not in (*OF_SEVERAL, "read"):
                yield from _readers(value)


def further_subjects(config: Config) -> list[LongitudinalSubject]:
    """Subjects that stages and members learn from besides the pairs of the run."""
    readers: dict[str, Any] = {}
    for system in _systems(config):
        for part in (system, *(stage_config(system, name) for name in system.get("stages") or {})):
            own = [part["read"]] if part["read"] != config["read"] else []
            readers |= {repr(reader): reader for reader in (*own, *_readers(part))}
    return [subject for reader in readers.values() for subject in instantiate(reader).subjects()]


def stage_config(config: Config, name: str) -> Config:
    """The whole configuration of one stage: its own settings, and where it runs."""
    return {
        **handed_down(config),
        "postprocess": None,
        **config["stages"][name],
        "name": config["name"],
    }


def _ensemble(config: Config) -> Method:
    from msseg_lightning.method.ensemble import EnsembleMethod

    ensemble = config["ensemble"]
    members = _members(config)

    return EnsembleMethod(
        {name: functools.partial(build_method, member) for name, member in members.items()},
        folds=ensemble["folds"],
        has_lesions=build_has_lesions(config),
        level=ensemble["level"],
        rule=ensemble["rule"],
        postprocess=postprocess_rules(config),
        of_fold=ensemble.get("of_fold"),
    )


def number_of_maps(config: Config) -> int:
    """How many single answers a prediction combines: of members, and of views, flips or passes."""
    if not config.get("ensemble"):
        return int(getattr(instantiate(config.get("infer")), "maps", 1))
    ensemble, members = config["ensemble"], _members(config)
    fitted = ensemble.get("of_fold") or [name for name in members for _ in range(ensemble["folds"])]
    return sum(number_of_maps(members[name]) for name in fitted)


def _members(config: Config) -> dict[str, Config]:
    """The systems of an ensemble: files of their own, or one system over several folds.

    With ``seeds: N`` each stands N times, with a seed of its own made from the run's.
    """
    ensemble = config["ensemble"]
    configs = ensemble.get("configs") or {config["name"]: {**config, "ensemble": None}}
    shared = handed_down(config)
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
    """What is fitted: the members of an ensemble, or the one system."""
    return list(_members(config).values()) if config.get("ensemble") else [config]


def check_buildable(config: Config) -> None:
    """Build the system, and every member of an ensemble, once, as ``msseg train`` does first.

    Raises:
        MssegError: what building would refuse (exit 2).
    """
    build_method(config)  # of an ensemble, only what its members have in common
    if config.get("ensemble"):
        for member in _members(config).values():
            build_method(member)


def postprocess_rules(config: Config) -> list[Any]:
    """The postprocessing rules, in order."""
    rules = (config.get("postprocess") or {}).get("rules", {})
    return [instantiate(rule) for rule in (rules or {}).values() if rule]


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
    """Build both for a single weight, so that invalid settings are refused at the start."""
    import torch

    try:
        built = optimizer([torch.nn.Parameter(torch.zeros(1))])
        if scheduler is not None:
            scheduler(built)
    except (TypeError, ValueError) as error:
        raise MssegError(_refused(_name(node), error)) from error
