"""Overrides of the command line, ``key=value``, converted to Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.keys import is_path_key

_WORD = re.compile(r"(?P<sign>\+{0,2})(?P<key>[A-Za-z_][\w.@:/-]*)=(?P<value>.*)", re.DOTALL)
_DELETION = re.compile(r"~[A-Za-z_][\w.@:/-]*(=.*)?", re.DOTALL)
_QUOTES = ("'", '"')
_NOTHING = ("", "''", '""', "null")


def override(key: str, value: object) -> str:
    """The override ``key=value`` for any value; texts are quoted, also in lists and mappings."""
    return f"{key}={_value(value)}"


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_value(of)}" for key, of in value.items()) + "}"
    return str(value)


def quoted(text: str) -> str:
    """A text in Hydra's single quotes, with its special characters escaped."""
    # backslashes are doubled only before a quote; ${ would be an interpolation
    text = re.sub(r"(\\*)'", r"\1\1\\'", text.replace("${", r"\${"))
    text = re.sub(r"(\\+)$", r"\1\1", text)  # the closing quote follows the end of the text
    return f"'{text}'"


def to_hydra(words: Iterable[str]) -> list[str]:
    """Overrides as typed, with quotes added where Hydra's grammar needs them.

    A path may hold blanks, brackets, commas, ``=``, ``~``, quotes and any letters, and a folder may
    be named by a number; the shell has removed its own quotes. A value of a path setting is a text
    unless it is ``null`` or quoted already; any other value is quoted if Hydra cannot parse it.
    """
    return [_readable(item) for item in words]


def refuse_invalid_overrides(words: Iterable[str]) -> None:
    """Refuse arguments that are not overrides, empty paths, and mappings with repeated keys.

    Args:
        words: arguments of a command line, before or after ``to_hydra``.

    Raises:
        MssegError: one problem per argument (exit 2).
    """
    problems = [problem for item in words if (problem := _problem_of(item)) is not None]
    if problems:
        raise MssegError(problems)


def interpolation_in_path(item: str) -> Problem:
    """The refusal of a path with ``${``, which OmegaConf would resolve."""
    return _refusal(
        item,
        "a path may not hold ${",
        "a path without it",
        "rename the folder, or give a link to it whose name holds no ${",
    )


def _problem_of(item: str) -> Problem | None:
    found = _WORD.fullmatch(item)
    if found is None:
        if _DELETION.fullmatch(item):
            return None
        path = Path(item)
        return _refusal(
            item,
            "this is not a setting",
            "key=value or group=preset",
            f"read.root={item}, if it is the folder of the data"
            if "=" not in item and path.is_dir()
            else f"leave {item} out; `msseg show EXPERIMENT` prints every setting as it is written",
        )
    key, value = found["key"], found["value"]
    if key == "name" and value in _NOTHING:
        return _refusal(item, "a run has a name", "letters, digits, _ and -", "leave name= out")
    if is_path_key(key.rpartition(".")[2]):
        if value in (_NOTHING if key.startswith("paths.") else _NOTHING[:-1]):
            return _refusal(
                item, "the path is missing", "a file or folder", f"{key}=PATH, or leave it out"
            )
        if r"\${" in value:
            return interpolation_in_path(item)
    twice = _named_twice(item)
    if twice:
        return _refusal(
            item,
            "a key is named twice in one mapping",
            f"{twice[0]} once",
            f"leave one {twice[0]} out",
        )
    return None


def _refusal(item: str, message: str, expected: str, remedy: str) -> Problem:
    return Problem(
        "config.word",
        message,
        field=item.lstrip("+").partition("=")[0][:80],
        found=item[:200],
        expected=expected,
        remedy=remedy,
        exit_code=ExitCode.CONFIG,
    )


def _readable(item: str) -> str:
    found = _WORD.fullmatch(item)
    if found is None or not found["value"]:
        return item
    key, value = found["key"], found["value"]
    if value.startswith(_QUOTES) and _is_grammatical(item):
        return item
    names_place = is_path_key(key.rpartition(".")[2]) and value not in ("null", "???")
    if names_place and "${" not in value:
        value = _from_home(value)
        return f"{found['sign']}{override(key, value)}"
    return item if _is_grammatical(item) else f"{found['sign']}{override(key, value)}"


def _from_home(place: str) -> str:
    """A place with ``~/`` at its start in full, unless there is a folder of that name."""
    if not place.startswith("~/") or Path(place).exists():
        return place
    return str(Path(place).expanduser())


def _is_grammatical(item: str) -> bool:
    """Whether Hydra parses an override as one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return not OverridesParser.create().parse_override(item).is_sweep_override()
    except HydraException:
        return False


def _named_twice(item: str) -> list[str]:
    """Repeated keys in a mapping of an override, of which Hydra would silently use the last."""
    if item.count(":") < 2 or "{" not in item:
        return []
    from antlr4 import CommonTokenStream, InputStream
    from hydra.core.override_parser.overrides_parser import create_functions
    from hydra.core.override_parser.overrides_visitor import (
        HydraErrorListener,
        HydraOverrideVisitor,
    )
    from hydra.errors import HydraException
    from hydra.grammar.gen.OverrideLexer import OverrideLexer
    from hydra.grammar.gen.OverrideParser import OverrideParser

    twice: list[str] = []

    class Keys(HydraOverrideVisitor):
        def visitDictContainer(self, ctx: Any) -> dict[Any, Any]:  # noqa: N802 - ANTLR's name
            parts = range(1, ctx.getChildCount() - 1, 2)
            pairs = [self.visitDictKeyValuePair(ctx.getChild(part)) for part in parts]
            keys = [str(key) for key, _ in pairs]  # 1 and "1" count as equal
            twice.extend(key for key in dict.fromkeys(keys) if keys.count(key) > 1)
            return dict(pairs)

    listener = HydraErrorListener()
    lexer = OverrideLexer(InputStream(item))
    parser = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(listener)
    try:
        Keys(create_functions()).visit(parser.override())
    except HydraException:  # not a mapping
        return []
    return twice
