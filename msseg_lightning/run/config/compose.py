"""Composition of a checked, resolved configuration from an experiment and overrides."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.allow_list import (
    nodes,
    refuse_resolvers,
    refuse_targets,
    yaml_texts,
)
from msseg_lightning.run.config.keys import (
    COMPOSITE_KEYS,
    KEYS,
    RUN_KEYS,
    is_path_key,
    unknown_root_keys,
)
from msseg_lightning.run.config.overrides import (
    interpolation_in_path,
    override,
    refuse_invalid_overrides,
    to_hydra,
)
from msseg_lightning.run.config.preset_files import (
    SUFFIXES,
    conf_dir,
    experiments_dir,
    groups,
    is_file_name,
    known_experiment,
    preset_file,
    root,
    stamps,
    user_roots,
    user_source,
)
from msseg_lightning.run.config.setting_checks import leaves, refuse_ranges, refuse_types

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Config = dict[str, Any]


def experiment_of(config: Mapping[str, Any]) -> str:
    """Name of the experiment's file that a configuration was made of.

    ``name=`` on a command line changes the name of the run folder only. Of an experiment of the
    user the whole path is stored. Configurations of earlier versions have the name alone.
    """
    given = str(config.get("experiment") or config["name"])
    return Path(given).stem if given.endswith(SUFFIXES) else given


def compose_config(
    overrides: Sequence[str] = (), experiment: str | None = None, complete: bool = True
) -> Config:
    """Compose, check and resolve a configuration.

    Args:
        overrides: Hydra overrides: ``key=value``, ``group=preset``, ``+key=value``, ``~key``;
            paths need no quotes.
        experiment: name or file of an experiment; None for commands that need none.
        complete: refuse missing settings without a default, such as ``read.root``; else they are
            ``???``.

    Returns:
        A plain dictionary of builtins, all interpolations resolved.

    Raises:
        MssegError: unknown experiment, key, preset or type (exit 2); a ``_target_`` outside the
            allow list or a resolver that reads the environment (exit 6).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    experiment = None if experiment is None else known_experiment(experiment)
    chosen = [] if experiment is None else [_choice("experiments", experiment)]
    given = _with_files(to_hydra(overrides))
    texts = ((item, item) for item in given)
    refuse_resolvers([*texts, *yaml_texts(conf_dir(), experiments_dir())])
    refuse_invalid_overrides(overrides)
    _refuse_no_preset(given)
    overrides = [*_size(given, chosen), *given]
    composed = _compose([*chosen, *overrides], given)
    plain = OmegaConf.to_container(composed, resolve=False)
    _refuse_unknown(plain)
    _refuse_other_keys([*chosen, *given])
    refuse_targets(plain)
    # again, since Hydra's grammar has escapes: $\{ has become ${
    refuse_resolvers((where, text) for where, text in nodes(plain) if isinstance(text, str))
    defaults = OmegaConf.to_container(_compose([*chosen, *_group_choices(overrides)]))
    try:
        resolved = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(resolved, dict) and isinstance(plain, dict)
        refuse_types(defaults, resolved)
        resolved["stages"] = expand_stages({str(key): value for key, value in plain.items()})
        missing = [key for key, value in leaves(resolved).items() if value == "???"]
    except OmegaConfBaseException as error:
        raise MssegError(_unresolved(error, given)) from error
    if missing and complete:
        raise MssegError(
            Problem(
                "config.missing",
                "this setting has no default",
                field=key,
                remedy=f"give it on the command line: {key}=VALUE",
                exit_code=ExitCode.CONFIG,
            )
            for key in missing
        )
    config = {str(key): value for key, value in resolved.items()}
    config["experiment"] = experiment
    if experiment is not None and config["name"] is None:
        config["name"] = experiment_of(config)
    refuse_ranges(config)
    refuse_targets(config)  # again, since interpolations are resolved now
    for name in (config["ensemble"] or {}).get("members") or ():
        # size=NAME is the members' own size of that name; the data are those of the run
        variant = (config["ensemble"].get("variants") or {}).get(name) or {}
        words = (f"size={config['size']}", "read.root=.", *variant.get("settings", ()))
        member = compose_config(
            words, known_experiment(variant.get("experiment", name), experiment or "")
        )
        kept = {key: value for key, value in member.items() if key not in RUN_KEYS}
        config["ensemble"].setdefault("configs", {})[name] = kept
    return config


def _refuse_no_preset(given: Sequence[str]) -> None:
    """Refuse a group that is given neither a preset nor values: Hydra takes ``[]`` for no group.

    Raises:
        MssegError: one problem per group (exit 2).
    """
    problems = []
    for item in given:
        key, equals, _ = item.partition("=")
        if not equals or key not in groups() or isinstance(_parsed(item).value(), str | dict):
            continue
        known = sorted(path.stem for path in (conf_dir() / key).glob("*.yaml"))
        problems.append(
            Problem(
                "config.preset",
                "a group of settings takes the name of one preset",
                field=key,
                found=item,
                expected=", ".join(known),
                remedy=f"{key}={known[0]}, or another of these names",
                exit_code=ExitCode.CONFIG,
            )
        )
    if problems:
        raise MssegError(problems)


def _refuse_unknown(config: Any) -> None:
    """Refuse unknown root keys.

    Raises:
        MssegError: one problem per key (exit 2).
    """
    if unknown := unknown_root_keys(config):
        raise MssegError(
            Problem(
                "config.root",
                "this setting is not used",
                field=place,
                expected=new_key or ", ".join(difflib.get_close_matches(place, KEYS, n=3)),
                remedy=f"write it as {new_key}" if new_key else "leave it out",
                exit_code=ExitCode.CONFIG,
            )
            for place, new_key in unknown.items()
        )


def expand_stages(plain: Mapping[str, Any]) -> Config:
    """The complete configuration of every stage: that of the experiment with the stage's changes.

    A mapping with its own ``_target_`` replaces that of the experiment, one without is merged into
    it, other values replace. Interpolations are resolved inside the stage: ``${train.steps}`` is
    that of the stage.

    Args:
        plain: the experiment, interpolations unresolved.
    """
    from omegaconf import OmegaConf

    found = {}
    base = {key: value for key, value in plain.items() if key not in COMPOSITE_KEYS}
    for name, changes in (plain.get("stages") or {}).items():
        full = merge(base, changes or {})
        resolved = OmegaConf.to_container(OmegaConf.create(full), resolve=True)
        assert isinstance(resolved, dict)
        kept = {str(key): value for key, value in resolved.items() if key not in RUN_KEYS}
        if "read" in (changes or {}):
            kept["read"] = resolved["read"]
        found[name] = kept
    return found


def merge(old: Any, new: Any) -> Any:
    """Merge ``new`` into ``old``; a mapping with a ``_target_`` replaces the old value."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or "_target_" in new:
        return new
    return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}


def _size(overrides: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """The overrides of ``size=NAME`` from ``sizes`` of the experiment."""
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
        f"{key}={value}" if _is_plain(value) else override(key, value)
        for key, value in leaves(sizes[names[-1]]).items()
    ]


def _is_plain(value: Any) -> bool:
    """Whether a value is the name of a preset or an interpolation, which must not be quoted."""
    return isinstance(value, str) and bool(re.fullmatch(r"\w+|.*\$\{.*", value))


def _choice(group: str, name: str) -> str:
    """The override that chooses a preset by its name or file."""
    return override(group, name) if is_file_name(name) else f"{group}={name}"


def _with_files(given: Sequence[str]) -> list[str]:
    """Overrides in which presets that are given as files are named by their whole path.

    Raises:
        MssegError: there is no such file (exit 2).
    """
    found = []
    for item in given:
        group, name = _chosen_file(item)
        file = preset_file(group, name) if name else None
        if name and file is None:
            raise MssegError(_no_preset_file(_key(item), name))
        found.append(item if file is None else override(_key(item), str(file.absolute())))
    return found


def _chosen_file(item: str) -> tuple[str, str]:
    """Group and file of an override ``group=FILE``; empty texts if it is none."""
    key, _, value = item.partition("=")
    group = key.lstrip("+~").partition("@")[0]
    if group not in {*groups(), "experiments"} or value[:1] in ("{", "["):
        return "", ""
    name = value if value[:1] not in ("'", '"') else str(_parsed(item).value())
    return (group, name) if is_file_name(name) else ("", "")


def _no_preset_file(key: str, text: str) -> Problem:
    return Problem(
        "config.preset_file",
        "there is no such file of settings",
        file=text,
        field=key,
        expected="a file FOLDER/NAME.yaml",
        remedy=f"correct the path, or give one of the presets by name: {key}=NAME",
        exit_code=ExitCode.CONFIG,
    )


def _compose(overrides: Sequence[str], given: Sequence[str] = ()) -> Any:
    """Compose overrides with Hydra; its errors become refusals.

    Args:
        overrides: all overrides.
        given: those that the user wrote.
    """
    try:
        return _try(overrides)
    except _hydra_errors() as error:
        raise MssegError(_explain(error, overrides, given)) from error


def _hydra_errors() -> tuple[type[Exception], ...]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return HydraException, OmegaConfBaseException, ValueError


def _try(overrides: Sequence[str]) -> Any:
    source, words = _source(overrides), tuple(overrides)
    try:
        return _with_values(words, source)
    except _hydra_errors():
        return _composed(words, source)  # for Hydra's own words of what is wrong


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where presets are read.

    Args:
        search: folder of this package that holds ``experiments/``.
        folder: folder of the presets of this package.
        user: folders of ``user_roots``, which come first.
        stamps: of the user's files, so that a changed file is read again.
    """

    search: Path
    folder: Path
    user: tuple[Path, ...]
    stamps: tuple[tuple[str, int, int], ...]


def _source(overrides: Sequence[str]) -> _Source:
    chosen = [(group, name) for group, name in map(_chosen_file, overrides) if name]
    places = user_roots(*(name for group, name in chosen if group == "experiments"))
    files = [Path(name) for _, name in chosen]
    return _Source(root(), conf_dir(), places, stamps(places, files))


@functools.lru_cache(maxsize=128)
def _with_values(overrides: tuple[str, ...], source: _Source) -> Any:
    """What Hydra makes of overrides, to be read only.

    Hydra first composes the presets and then sets the values, one after the other; so the presets
    are composed once for all values. Additions and deletions are left to Hydra.
    """
    from omegaconf import OmegaConf

    is_value = [_sets_a_value(item, source) for item in overrides]
    if not any(is_value) or any(item.startswith(("+", "~")) for item in overrides):
        return _composed(overrides, source)
    presets = [item for item, value in zip(overrides, is_value, strict=True) if not value]
    config = pickle.loads(pickle.dumps(_composed(tuple(presets), source)))  # faster than deepcopy
    for item in itertools.compress(overrides, is_value):
        parsed = _parsed(item)
        if parsed.is_sweep_override():
            raise ValueError(f"{item} is several values")
        OmegaConf.update(config, parsed.key_or_group, parsed.value(), merge=True)
    return config


def _sets_a_value(item: str, source: _Source) -> bool:
    """Whether a word is ``key=value``, and no choice of a preset in the group of that name."""
    key, _, _ = item.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key) or key.partition(".")[0] == "hydra":
        return False
    is_group = (source.search / key).is_dir() or (source.folder / key).is_dir()
    return not is_group or isinstance(_parsed(item).value(), dict)


@functools.lru_cache(maxsize=1024)
def _parsed(item: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(item)


@functools.lru_cache(maxsize=128)
def _composed(overrides: tuple[str, ...], source: _Source) -> Any:
    """Result of Hydra, cached since it takes 0.2 s of processor time; it must not be changed."""
    from hydra import compose, initialize_config_dir
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    words = [f"hydra.searchpath=['file://{source.search}']", *overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(source.folder), version_base="1.3"):
        if source.stamps:  # Hydra appends what is named by hydra.searchpath; these come first
            places = "\n".join(map(str, source.user))
            path = create_config_search_path(str(source.folder))
            path.prepend("user", f"{user_source().scheme()}://{places}")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("msseg", path)
        return compose("config", overrides=words)


def _explain(error: Exception, overrides: Sequence[str], given: Sequence[str]) -> Problem:
    """A refusal from an error of Hydra, with the wrong override and similar names."""
    from omegaconf import OmegaConf

    text = " ".join(str(error).split("Config search path")[0].split("See https://hydra")[0].split())
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        base = OmegaConf.to_container(_try(()), resolve=False)
        assert isinstance(base, dict)
        return _unknown_key(unknown[1], overrides, "." in unknown[1] and _is_free(base, unknown[1]))
    no_preset = re.search(
        r"Could not find '([^']+)/([^'/]+)' Available options in '\1': (.*)", text
    )
    if no_preset:
        group, name, known = no_preset[1], no_preset[2], no_preset[3].split()
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        return Problem(
            "config.preset",
            f"there is no file {name!r} in conf/{group}",
            field=group,
            found=f"{group}={name}",
            expected=", ".join(known),
            remedy=f"{group}={near[0]}" if near else f"{group}=NAME with one of these names",
            exit_code=ExitCode.CONFIG,
        )
    # the one without which the others are right, or one that is wrong by itself
    wrong = next(
        (item for item in given if _composes([word for word in overrides if word != item])),
        next((item for item in given if not _composes([*overrides[:1], item])), ""),
    )
    return Problem(
        "config.compose",
        text[:600],
        found=wrong or " ".join(given),
        expected="key=value, or group=preset",
        remedy=f"leave {wrong} out, or correct it: `msseg show EXPERIMENT` prints every setting"
        if wrong
        else "`msseg show EXPERIMENT` prints every setting",
        exit_code=ExitCode.CONFIG,
    )


def _composes(overrides: Sequence[str]) -> bool:
    try:
        _try(overrides)
    except _hydra_errors():
        return False
    return True


def _unknown_key(key: str, overrides: Sequence[str], may_be_added: bool = False) -> Problem:
    known = sorted({*leaves(_plain_defaults(overrides)), *groups()})
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
        found=_last(overrides, key),
        expected=", ".join(near[:3]),
        remedy=(f"did you mean {near[0]}? " if near else "")
        + "`msseg show EXPERIMENT` prints every setting"
        + (f"; +{key}=VALUE adds an argument that a class has" if may_be_added else ""),
        exit_code=ExitCode.CONFIG,
    )


def _last(items: Sequence[str], key: str) -> str:
    """The last of the overrides that set a key, which is the one that applies."""
    return next((item for item in reversed(items) if _key(item) == key), key)


def _key(item: str) -> str:
    return item.lstrip("+~").partition("=")[0]


def _refuse_other_keys(given: Sequence[str]) -> None:
    """Refuse overrides that add an unused setting or remove a required one.

    Arguments of classes are checked by the classes; names of stages, images, rules and the like are
    free.

    Raises:
        MssegError: one problem per key (exit 2).
    """
    from omegaconf import OmegaConf

    base = OmegaConf.to_container(_try(()), resolve=False)
    assert isinstance(base, dict)
    problems = []
    for item in given:
        key = _key(item)
        name, _, rest = key.partition(".")
        if name == "hydra" or (item.startswith("+") and not _is_free(base, key)):
            problems.append(_unknown_key(key, given))
        elif item.startswith("~") and (not rest or _has_no_class(base, name)):
            problems.append(
                Problem(
                    "config.compose",
                    "this setting cannot be removed",
                    field=key,
                    found=item,
                    expected="a value for it",
                    remedy=f"leave {item} out",
                    exit_code=ExitCode.CONFIG,
                )
            )
    if problems:
        raise MssegError(problems)


def _has_no_class(base: Mapping[Any, Any], name: str) -> bool:
    node = base.get(name)
    return isinstance(node, Mapping) and bool(node) and "_target_" not in node


def _is_free(base: Mapping[Any, Any], key: str) -> bool:
    """Whether a setting that does not exist may be added."""
    *groups, last = key.split("@")[0].split(".")
    node: Any = base
    for name in groups:
        node = node.get(name) if isinstance(node, Mapping) else None
    known = isinstance(node, Mapping) and last in node
    first = key.partition(".")[0]
    return known or (first in KEYS and not KEYS[first].read_by_name)


def _unresolved(error: Any, given: Sequence[str]) -> Problem:
    """The refusal of an interpolation of a setting that does not exist or was removed."""
    key = getattr(error, "full_key", "") or ""
    deleted = next(
        (item for item in given if item.startswith("~") and _key(item) in str(error)), ""
    )
    if is_path_key(key.rpartition(".")[2]):
        return interpolation_in_path(_last(given, key))
    return Problem(
        "config.unresolved",
        str(error).splitlines()[0],
        field=key,
        found=deleted,
        remedy=f"leave {deleted} out"
        if deleted
        else f"give it on the command line: {key or 'key'}=VALUE",
        exit_code=ExitCode.CONFIG,
    )


def _plain_defaults(overrides: Sequence[str]) -> Any:
    from omegaconf import OmegaConf

    experiment = [item for item in overrides if item.startswith("experiments=")]
    return OmegaConf.to_container(_compose(experiment))


def _group_choices(overrides: Sequence[str]) -> list[str]:
    """Overrides that choose a preset."""
    known = groups()
    return [item for item in overrides if re.split(r"[@=]", item.lstrip("+~"))[0] in known]
