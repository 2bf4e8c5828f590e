"""Settings are of the kind of their default and in range, before a class sees them."""

from __future__ import annotations

import importlib
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.keys import OF_SEVERAL

LARGEST_SEED = 2**32 - 1


def refuse_ranges(config: Mapping[str, Any]) -> None:
    """Numbers are finite, counts whole and not negative, an ensemble whole; the name is no path.

    What else a number must be, the class says that takes it.

    Raises:
        MssegError: one problem per setting that is out of range (exit 2).
    """
    wrong = [
        (key, value, "a finite number")
        for key, value in leaves({**config, "card": {}, "sizes": {}}).items()
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
        and isinstance(value.get("variants"), Mapping | None)
        and all(isinstance(each, Mapping) for each in (value.get("variants") or {}).values())
    )


def refuse_kinds(defaults: Any, settings: Any) -> None:
    """A setting is of the kind of its default.

    Args:
        defaults: the same configuration before values were given.
        settings: the configuration, resolved.

    Raises:
        MssegError: one problem per setting of another kind (exit 2).
    """
    if problems := list(_kind_problems(defaults, settings)):
        raise MssegError(problems)


def _kind_problems(
    old: Any, new: Any, place: str = "", built: bool = False, words: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """A mapping stays a mapping, a number a number, a list a list: the default's type counts.

    Args:
        old: default, interpolations unresolved; without a type where it is null or a text.
        new: the setting, resolved.
        place: dotted key of both.
        built: whether a class takes it, which then says itself whether one number may stand for a
            list, or nothing for something.
        words: texts that the class takes as well.
    """
    built = built or (isinstance(old, Mapping) and "_target_" in old)
    left_out = new is None and (built or place.split(".")[0] in OF_SEVERAL)
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
    """The words that a class of this package takes for an argument beside values of other types.

    Args:
        node: of the defaults, whose classes ``refuse_targets`` has checked.
        argument: of the constructor.
    """
    module, _, name = str(node.get("_target_", "")).rpartition(".")
    if not module.startswith("msseg_lightning."):
        return ()
    made = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(made.__init__)
    kinds = [hints.get(argument), *typing.get_args(hints.get(argument))]
    found = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal]
    return tuple(word for words in found for word in words if isinstance(word, str))


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_kind(one) is float for one in value)


def _kind(value: Any) -> type:
    """What may stand for each other; whole and other numbers may."""
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
