"""Words of the command line, ``key=value``, in the form that Hydra's grammar reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msseg_lightning.run.keys import is_place

_WORD = re.compile(r"(?P<sign>\+{0,2})(?P<key>[A-Za-z_][\w.@:/-]*)=(?P<value>.*)", re.DOTALL)
_QUOTES = ("'", '"')


def word(key: str, value: object) -> str:
    """``key=value`` for a value of any kind; a text is quoted."""
    if isinstance(value, str):
        return f"{key}={quoted(value)}"
    return f"{key}={'null' if value is None else value}"


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


def _readable(item: str) -> str:
    found = _WORD.fullmatch(item)
    if found is None or not found["value"]:
        return item
    key, value = found["key"], found["value"]
    if value.startswith(_QUOTES) and _is_grammatical(item):
        return item
    names_place = is_place(key.rpartition(".")[2]) and value not in ("null", "???")
    if names_place and "${" not in value:
        return f"{found['sign']}{word(key, value)}"
    return item if _is_grammatical(item) else f"{found['sign']}{word(key, value)}"


def _is_grammatical(item: str) -> bool:
    """Whether Hydra reads a word, as one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return not OverridesParser.create().parse_override(item).is_sweep_override()
    except HydraException:
        return False
