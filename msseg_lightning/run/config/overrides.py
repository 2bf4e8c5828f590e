"""Words of the command line, ``key=value``, in the form that Hydra's grammar reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.keys import is_place

_WORD = re.compile(r"(?P<sign>\+{0,2})(?P<key>[A-Za-z_][\w.@:/-]*)=(?P<value>.*)", re.DOTALL)
_DELETION = re.compile(r"~[A-Za-z_][\w.@:/-]*(=.*)?", re.DOTALL)
_QUOTES = ("'", '"')
_NOTHING = ("", "''", '""', "null")


def word(key: str, value: object) -> str:
    """``key=value`` for a value of any kind; texts are quoted, also inside lists and mappings."""
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
    """A text in Hydra's single quotes, which mean it letter by letter."""
    # backslashes are doubled only before a quote, and a dollar and a brace would be looked up
    text = re.sub(r"(\\*)'", r"\1\1\\'", text.replace("${", r"\${"))
    text = re.sub(r"(\\+)$", r"\1\1", text)  # at the end of the text they stand before a quote
    return f"'{text}'"


def readable(words: Iterable[str]) -> list[str]:
    """Words as they were typed, with quotes where Hydra's grammar needs them.

    A path may hold blanks, brackets, commas, ``=``, ``~``, quotes and letters of any language, and
    a folder may be named by a number: the shell has taken its own quotes away. A value that names
    a place is a text unless it is ``null`` or quoted already; any other value is quoted
    where it could not be read as it is.
    """
    return [_readable(item) for item in words]


def refuse_words(words: Iterable[str]) -> None:
    """Refuse what is no setting, a place without a name, and a mapping that names a key twice.

    Args:
        words: of a command line, before or after ``readable``.

    Raises:
        MssegError: one problem per word (exit 2).
    """
    problems = [problem for item in words if (problem := _problem_of(item)) is not None]
    if problems:
        raise MssegError(problems)


def refused_place(item: str) -> Problem:
    """The refusal of a path that holds what OmegaConf would look up."""
    return _refusal(
        item,
        "no path can be given that holds ${",
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
            "this is no setting",
            "key=value or group=preset",
            f"read.root={item}, if it is the folder of the data"
            if "=" not in item and path.is_dir()
            else f"leave {item} out; `msseg show EXPERIMENT` prints every setting as it is written",
        )
    key, value = found["key"], found["value"]
    if key == "name" and value in _NOTHING:
        return _refusal(item, "a run has a name", "letters, digits, _ and -", "leave name= out")
    if is_place(key.rpartition(".")[2]):
        if value in (_NOTHING if key.startswith("paths.") else _NOTHING[:-1]):
            return _refusal(
                item, "no place is named", "a file or folder", f"{key}=PLACE, or leave it out"
            )
        if r"\${" in value:
            return refused_place(item)
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
    names_place = is_place(key.rpartition(".")[2]) and value not in ("null", "???")
    if names_place and "${" not in value:
        value = _from_home(value)
        return f"{found['sign']}{word(key, value)}"
    return item if _is_grammatical(item) else f"{found['sign']}{word(key, value)}"


def _from_home(place: str) -> str:
    """A place with ``~/`` at its start in full, unless there is a folder of that name."""
    if not place.startswith("~/") or Path(place).exists():
        return place
    return str(Path(place).expanduser())


def _is_grammatical(item: str) -> bool:
    """Whether Hydra reads a word, as one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return not OverridesParser.create().parse_override(item).is_sweep_override()
    except HydraException:
        return False


def _named_twice(item: str) -> list[str]:
    """Keys that a mapping of a word names more than once; Hydra keeps the last in silence."""
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
            keys = [str(key) for key, _ in pairs]  # 1 and "1" would be one label
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
    except HydraException:  # no mapping, but a text of this look
        return []
    return twice
