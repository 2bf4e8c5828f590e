"""From experiment name and ``key=value`` to one resolved, checked configuration."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Config = dict[str, Any]

FOREIGN_TARGETS = frozenset(
    {
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.SGD",
        "torch.optim.RMSprop",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "torch.optim.lr_scheduler.ConstantLR",
        "torch.optim.lr_scheduler.ExponentialLR",
        "torch.optim.lr_scheduler.LinearLR",
        "torch.optim.lr_scheduler.PolynomialLR",
        "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "torch.optim.lr_scheduler.StepLR",
        "monai.networks.nets.SegResNet",
        "monai.networks.nets.DynUNet",
        "monai.networks.nets.UNet",
        "monai.networks.nets.AttentionUnet",
        "monai.losses.DiceLoss",
        "monai.losses.DiceCELoss",
        "monai.losses.DiceFocalLoss",
        "monai.losses.FocalLoss",
        "monai.losses.TverskyLoss",
        "monai.transforms.RandSimulateLowResolutiond",
    }
)
"""Classes outside this package that a configuration may build. A block list is not a fence."""

OWN_STEPS = (
    "simulate",
    "read",
    "preprocess",
    "sample",
    "augment",
    "network",
    "loss",
    "train",
    "infer",
    "postprocess",
    "evaluate",
    "track",
    "method",
)


def root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``: a checkout or the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout
    return package


def conf_dir() -> Path:
    """The folder of the presets."""
    return root() / "conf"


def experiments_dir() -> Path:
    """The folder with one file per system."""
    return root() / "experiments"


def experiment_names() -> list[str]:
    """Every experiment, in alphabetical order."""
    return sorted(path.stem for path in experiments_dir().glob("*.yaml"))


def compose_config(overrides: Sequence[str] = (), experiment: str | None = None) -> Config:
    """Compose, check and resolve a configuration.

    Args:
        overrides: Hydra overrides: ``key=value``, ``group=preset``, ``+key=value``, ``~key``.
        experiment: name of a file in ``experiments/``; None for commands that need none.

    Returns:
        A plain dictionary of builtins, all interpolations resolved.

    Raises:
        MssegError: unknown experiment, key, preset or type (exit 2); a ``_target_`` outside the
            allow list or a resolver that reads the environment (exit 6).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = [] if experiment is None else [f"experiments={_known_experiment(experiment)}"]
    _refuse_resolvers([*((item, item) for item in overrides), *_preset_texts()])
    overrides = [*_size(overrides, chosen), *overrides]
    composed = _compose([*chosen, *overrides])
    plain = OmegaConf.to_container(composed, resolve=False)
    refuse_targets(plain)
    # again, since the command line's grammar has escapes: $\{ is ${ by now
    _refuse_resolvers((where, text) for where, text in _nodes(plain) if isinstance(text, str))
    defaults = OmegaConf.to_container(_compose([*chosen, *_group_choices(overrides)]))
    try:
        resolved = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        assert isinstance(resolved, dict) and isinstance(plain, dict)
        if problems := list(_type_problems(defaults, resolved)):
            raise MssegError(problems)
        resolved["stages"] = expanded_stages({str(key): value for key, value in plain.items()})
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "") or ""
        raise MssegError(
            Problem(
                "config.unresolved",
                str(error).splitlines()[0],
                field=key,
                remedy=f"give it on the command line: {key or 'key'}=VALUE",
                exit_code=ExitCode.CONFIG,
            )
        ) from error
    assert isinstance(resolved, dict)
    config = {str(key): value for key, value in resolved.items()}
    _check_ranges(config)
    for name in (config["ensemble"] or {}).get("members") or ():
        # size=NAME means the members' own size of that name; what is read is the run's business
        member = compose_config((f"size={config['size']}", "read.root=."), name)
        kept = {key: value for key, value in member.items() if key not in OF_THE_RUN}
        config["ensemble"].setdefault("configs", {})[name] = kept
    return config


OF_THE_RUN = (
    "card",
    "sizes",
    "size",
    "read",
    "split",
    "fold",
    "seed",
    "evaluate",
    "track",
    "data",
    "paths",
    "trainer",
    "profile",
    "overwrite",
    "experiments",
)
"""Settings that members of an ensemble and stages share with the run they belong to."""


def expanded_stages(plain: Mapping[str, Any]) -> Config:
    """Every stage in full: the experiment's own configuration with the stage's groups in place.

    A mapping with a ``_target_`` of its own replaces the experiment's, one without is merged into
    it, anything else replaces. Interpolations are resolved inside the stage: ``${train.steps}`` is
    the stage's.

    Args:
        plain: the experiment, interpolations unresolved.
    """
    from omegaconf import OmegaConf

    found = {}
    base = {key: value for key, value in plain.items() if key not in ("stages", "ensemble", "uses")}
    for name, changes in (plain.get("stages") or {}).items():
        full = merge(base, changes or {})
        resolved = OmegaConf.to_container(
            OmegaConf.create(full), resolve=True, throw_on_missing=True
        )
        assert isinstance(resolved, dict)
        kept = {str(key): value for key, value in resolved.items() if key not in OF_THE_RUN}
        if "read" in (changes or {}):
            kept["read"] = resolved["read"]
        found[name] = kept
    return found


def merge(old: Any, new: Any) -> Any:
    """``new`` over ``old``; a mapping with a ``_target_`` is taken whole."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or "_target_" in new:
        return new
    return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}


LARGEST_SEED = 2**32 - 1


def _check_ranges(config: Config) -> None:
    """Numbers are finite, counts whole and not negative, an ensemble whole; the name is no path.

    What else a number must be, the class says that takes it.
    """
    wrong = [
        (key, value, "a finite number")
        for key, value in _leaves({**config, "card": {}, "sizes": {}}).items()
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, float) and not math.isfinite(number)
    ]
    counts = {
        "fold": (config["fold"], 0),
        "seed": (config["seed"], 0),
        "data.workers": (config["data"]["workers"], 0),
    }
    ensemble = config["ensemble"]
    if ensemble is not None and not _is_ensemble(ensemble):
        wrong.append(("ensemble", ensemble, "null or {folds: N, level: L, rule: R}"))
    elif ensemble is not None:
        counts["ensemble.folds"] = (ensemble["folds"], 1)
    wrong += [
        (key, value, f"a whole number from {least} to {LARGEST_SEED}")
        for key, (value, least) in counts.items()
        if not isinstance(value, int) or not least <= value <= LARGEST_SEED
    ]
    name = config["name"]
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(name)):
        wrong.append(("name", name, "letters, digits, _ and -: a folder is named by it"))
    if wrong:
        raise MssegError(
            Problem(
                "config.range",
                "the value is out of range",
                field=key,
                found=str(value),
                expected=expected,
                remedy=f"set {key} to {expected}",
                exit_code=ExitCode.CONFIG,
            )
            for key, value, expected in wrong
        )


def _is_ensemble(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and {"folds", "level", "rule"} <= value.keys()
        and isinstance(value.get("members"), list | None)
    )


def _size(overrides: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """The overrides that ``size=NAME`` stands for, from the experiment's own ``sizes``."""
    from omegaconf import OmegaConf

    names = [item.removeprefix("size=") for item in overrides if item.startswith("size=")]
    if not names or names[-1] == "paper":
        return []
    sizes = OmegaConf.to_container(_compose(chosen).sizes)
    assert isinstance(sizes, dict)
    if names[-1] not in sizes:
        raise MssegError(
            Problem(
                "config.size",
                f"this experiment has no size {names[-1]!r}",
                field="size",
                found=names[-1],
                expected=", ".join(["paper", *map(str, sizes)]),
                remedy="leave it out for the paper's own size",
                exit_code=ExitCode.CONFIG,
            )
        )
    return [
        f"{key}={'null' if value is None else str(value).replace(' ', '')}"
        for key, value in _leaves(sizes[names[-1]]).items()
    ]


def refuse_targets(node: Any, place: str = "") -> None:
    """Check every ``_target_`` at every depth before anything is built.

    Raises:
        MssegError: one problem per target that is not on the allow list (exit 6).
    """
    problems = [
        Problem(
            "config.target",
            "this class may not be built from a configuration",
            field=where,
            found=str(target),
            expected="a class of msseg_lightning or one on the allow list",
            remedy="use a preset, or add the class to FOREIGN_TARGETS in run/compose.py",
            exit_code=ExitCode.SECURITY,
        )
        for where, target in _nodes(node, place)
        if where.rpartition(".")[2] == "_target_" and not _allowed(target)
    ]
    if problems:
        raise MssegError(problems)


def _allowed(target: object) -> bool:
    if not isinstance(target, str):
        return False
    if target in FOREIGN_TARGETS:
        return True
    parts = target.split(".")
    return (
        len(parts) >= 4
        and parts[0] == "msseg_lightning"
        and parts[1] in OWN_STEPS
        and parts[-1][:1].isupper()  # classes only: no function of ours is reachable by name
    )


def refuse_interpolations(node: Any, place: str = "") -> None:
    """Check that nothing would be looked up, or called, when a stored node is built.

    What ``compose_config`` returns is resolved; what Hydra still finds as ``${...}`` in it, it
    would resolve, and a resolver may read the environment or build any class.

    Raises:
        MssegError: one problem per text that holds an interpolation (exit 6).
    """
    problems = [
        Problem(
            "config.interpolation",
            "a stored configuration holds values only",
            field=where,
            found=value[:200],
            expected="the value itself",
            remedy="do not use this configuration, or write the value in its place",
            exit_code=ExitCode.SECURITY,
        )
        for where, value in _nodes(node, place)
        if isinstance(value, str) and "${" in value
    ]
    if problems:
        raise MssegError(problems)


def _nodes(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted place and value of a node and of everything inside it."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _nodes(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):  # YAML's !!pairs and !!omap are tuples
        for index, value in enumerate(node):
            yield from _nodes(value, f"{place}[{index}]")


def _known_experiment(name: str) -> str:
    names = experiment_names()
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    raise MssegError(
        Problem(
            "config.experiment",
            f"there is no experiment named {name!r}",
            field="experiment",
            found=name,
            expected=", ".join(near) or ", ".join(names),
            remedy="`msseg list` shows all of them",
            exit_code=ExitCode.CONFIG,
        )
    )


def _compose(overrides: Sequence[str]) -> Any:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _composed(tuple(overrides), root(), conf_dir())
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise MssegError(_explain(error, overrides)) from error


@functools.lru_cache(maxsize=8)
def _composed(overrides: tuple[str, ...], search: Path, folder: Path) -> Any:
    """What Hydra makes of it, to be read only: 0.2 CPU s, and a command asks for the same again."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        return compose("config", overrides=[f"hydra.searchpath=['file://{search}']", *overrides])


def _explain(error: Exception, overrides: Sequence[str]) -> Problem:
    """A Hydra error in words: which override, what was meant."""
    text = " ".join(str(error).split("Config search path")[0].split())
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        known = sorted({*_leaves(_plain_defaults(overrides)), *_groups()})
        last = key.split(".")[-1]
        near = difflib.get_close_matches(key, known, n=3) or [
            name
            for name in known
            if name.split(".")[-1]
            in difflib.get_close_matches(last, [n.split(".")[-1] for n in known], n=3)
        ]
        return Problem(
            "config.key",
            f"there is no setting {key!r}",
            field=key,
            found=next((item for item in overrides if key in item), ""),
            expected=", ".join(near[:3]),
            remedy="`msseg show EXPERIMENT` prints every setting; +key=value adds a new one",
            exit_code=ExitCode.CONFIG,
        )
    return Problem(
        "config.compose",
        text[:600],
        found=" ".join(overrides),
        remedy="overrides are key=value or group=preset; `msseg show EXPERIMENT` prints them all",
        exit_code=ExitCode.CONFIG,
    )


def _plain_defaults(overrides: Sequence[str]) -> Any:
    from omegaconf import OmegaConf

    experiment = [item for item in overrides if item.startswith("experiments=")]
    return OmegaConf.to_container(_compose(experiment))


def _group_choices(overrides: Sequence[str]) -> list[str]:
    """Overrides that choose a preset rather than set a value."""
    groups = _groups()
    return [item for item in overrides if re.split(r"[@=]", item.lstrip("+~"))[0] in groups]


def _groups() -> set[str]:
    return {path.name for path in conf_dir().iterdir() if path.is_dir()}


def _refuse_resolvers(texts: Iterable[tuple[str, str]]) -> None:
    """Check texts, each after the place where it stands, for more than ``${name.of.a.setting}``."""
    problems = [
        Problem(
            "config.resolver",
            "a configuration may not read the environment or call a resolver",
            field=where,
            found=call,
            remedy="write the value itself",
            exit_code=ExitCode.SECURITY,
        )
        for where, text in texts
        if (call := _resolver_call(text))
    ]
    if problems:
        raise MssegError(problems)


def _resolver_call(text: str) -> str:
    """The first interpolation that is no setting's name; empty without any.

    Names may be made of names, ``${a.${b}}``, so what is harmless is taken out from inside.
    """
    while (left := re.sub(r"\$\{[^{}:]*\}", "", text)) != text:
        text = left
    found = re.search(r"\$\{[^}]*\}?", text)
    return found.group(0) if found else ""


def _preset_texts() -> Iterator[tuple[str, str]]:
    for path in [*conf_dir().rglob("*.yaml"), *experiments_dir().glob("*.yaml")]:
        yield path.name, path.read_text(encoding="utf-8")


def _leaves(node: Any, place: str = "") -> dict[str, Any]:
    """Dotted key -> value, for every value that is not a mapping."""
    if not isinstance(node, Mapping):
        return {place: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found.update(_leaves(value, f"{place}.{key}" if place else str(key)))
    return found


def _type_problems(old: Any, new: Any, place: str = "", built: bool = False) -> Iterator[Problem]:
    """A mapping stays a mapping, a number a number, a list a list: the default's type counts.

    Args:
        old: default, interpolations unresolved; without a type where it is null or a text.
        new: the setting, resolved.
        place: dotted key of both.
        built: whether a class takes it, which then says itself whether one number may stand for a
            list, or nothing for something.
    """
    built = built or (isinstance(old, Mapping) and "_target_" in old)
    left_out = new is None and (built or place.split(".")[0] in ("stages", "uses", "ensemble"))
    if old is None or isinstance(old, str) or left_out:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in filter(new.__contains__, old):
            where = f"{place}.{key}" if place else str(key)
            yield from _type_problems(old[key], new[key], where, built)
    elif _kind(new) != _kind(old) and not (built and {_kind(new), _kind(old)} == {float, list}):
        yield Problem(
            "config.type",
            "the value has the wrong type",
            field=place,
            found=f"{new!r} ({type(new).__name__})",
            expected=f"{type(old).__name__} such as {old!r}"[:200],
            remedy="`msseg show EXPERIMENT` prints the setting as it should look",
            exit_code=ExitCode.CONFIG,
        )


def _kind(value: Any) -> type:
    """What may stand for each other; whole and other numbers may."""
    for kind in (bool, Mapping, list):
        if isinstance(value, kind):
            return kind
    return float if isinstance(value, int | float) else type(value)
