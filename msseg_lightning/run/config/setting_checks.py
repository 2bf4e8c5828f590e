"""Checks of types and ranges of settings, before classes are built from them."""

from __future__ import annotations

import functools
import importlib
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.keys import COMPOSITE_KEYS

LARGEST_SEED = 2**32 - 1


def refuse_ranges(config: Mapping[str, Any]) -> None:
    """Check that numbers are finite, counts are valid, the ensemble is complete, the name is valid.

    Other ranges are checked by the classes.

    Raises:
        MssegError: one problem per setting that is out of range (exit 2).
    """
    wrong = [
        (key, value, "a finite number")
        for key, value in leaves({**config, "card": {}, "sizes": {}}).items()
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, float) and not math.isfinite(number)
    ]
    wrong += [
        (key, value, "whole numbers, at least 1")
        for key, value in leaves({**config, "card": {}, "sizes": {}}).items()
        if key.endswith(("sample.size", "infer.size"))
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int) and number < 1
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
        counts["ensemble.seeds"] = (ensemble.get("seeds", 1), 1)
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
                remedy=f"{key}=VALUE with {expected}",
                exit_code=ExitCode.CONFIG,
            )
            for key, value, expected in wrong
        )


def _is_ensemble(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and {"folds", "level", "rule"} <= value.keys()
        and isinstance(value.get("members"), list | None)
        and isinstance(value.get("of_fold"), list | None)
        and isinstance(value.get("share_stages", False), bool)
        and isinstance(value.get("variants"), Mapping | None)
        and all(isinstance(each, Mapping) for each in (value.get("variants") or {}).values())
    )


def refuse_types(defaults: Any, settings: Any) -> None:
    """Check that settings have the type of their default.

    Args:
        defaults: the configuration without the overrides of the user.
        settings: the configuration, resolved.

    Raises:
        MssegError: one problem per setting of another type (exit 2).
    """
    if problems := list(_kind_problems(defaults, settings)):
        raise MssegError(problems)


def _kind_problems(
    old: Any, new: Any, place: str = "", built: bool = False, words: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """A problem for every setting whose type differs from that of its default.

    Args:
        old: default, interpolations unresolved; null and texts have no type.
        new: the setting, resolved.
        place: dotted key of both.
        built: whether it is an argument of a class, which then checks itself whether a number may
            replace a list and whether null is allowed.
        words: texts that the class accepts too.
    """
    built = built or (isinstance(old, Mapping) and "_target_" in old)
    left_out = new is None and (built or place.split(".")[0] in COMPOSITE_KEYS)
    if old is None or isinstance(old, str) or left_out:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in filter(new.__contains__, old):
            where = f"{place}.{key}" if place else str(key)
            words = _words_of(old, str(key)) if isinstance(new[key], str) else ()
            if new[key] not in words:
                yield from _kind_problems(old[key], new[key], where, built, words)
    elif (
        _kind(new) != _kind(old) and not (built and {_kind(new), _kind(old)} == {float, list})
    ) or (
        _holds_numbers(old) and isinstance(new, list) and any(isinstance(one, str) for one in new)
    ):
        yield Problem(
            "config.type",
            "the value has the wrong type",
            field=place,
            found=f"{new!r} ({type(new).__name__})",
            expected="true or false"
            if isinstance(old, bool)
            else f"{type(old).__name__} such as {old!r}"[:200]
            + "".join(f", or {word}" for word in words),
            remedy="`msseg show EXPERIMENT` prints the setting as it should look",
            exit_code=ExitCode.CONFIG,
        )


def _words_of(node: Mapping[str, Any], argument: str) -> tuple[str, ...]:
    """The texts that a class of this package accepts for an argument of another type.

    Args:
        node: node of the defaults, whose classes ``refuse_targets`` has checked.
        argument: name of an argument of the constructor.
    """
    module, _, name = str(node.get("_target_", "")).rpartition(".")
    if not module.startswith("msseg_lightning."):
        return ()
    hints = _hints(getattr(importlib.import_module(module), name))
    kinds = [hints.get(argument), *typing.get_args(hints.get(argument))]
    found = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal]
    return tuple(word for words in found for word in words if isinstance(word, str))


@functools.cache
def _hints(made: type) -> dict[str, Any]:
    return typing.get_type_hints(made.__init__)  # type: ignore[misc]


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_kind(one) is float for one in value)


def _kind(value: Any) -> type:
    """Type of a value for comparison, where integers and floats are equal."""
    for kind in (bool, Mapping, list):
        if isinstance(value, kind):
            return kind
    return float if isinstance(value, int | float) else type(value)


def leaves(node: Any, place: str = "") -> dict[str, Any]:
    """Dotted key -> value, for every value that is not a mapping."""
    if not isinstance(node, Mapping):
        return {place: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found.update(leaves(value, f"{place}.{key}" if place else str(key)))
    return found
