"""Formatting of numbers in messages."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path


def program() -> str:
    """The word that starts this program in a shell, so that a printed command runs as it stands.

    It is ``msseg`` where the shell finds this installation, else the path of the program, such as
    ``.venv/bin/msseg``.
    """
    own = Path(sys.executable).with_name("msseg")
    found = shutil.which("msseg")
    if found is not None and Path(found).resolve() == own.resolve():
        return "msseg"
    if not own.is_file():
        return shlex.join([sys.executable, "-m", "msseg_lightning"])
    here = own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own
    return shlex.quote(str(here))


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where needed.

    >>> counted(1, "pair"), counted(2, "pair"), counted(0, "voxel")
    ('1 pair', '2 pairs', '0 voxels')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def reported_text(value: object, in_full: bool = True) -> str:
    """One reported figure of a card as text.

    Args:
        value: a number, a text, a list, a mapping with ``mean``, or a mapping of names to these.
        in_full: with the quartiles or folds behind a mean, not with its SD alone.

    >>> reported_text({"mean": 62.46, "sd": 36.11, "q1": 39.05}, in_full=False)
    '62.46 (SD 36.11)'
    >>> reported_text({"threshold_50_percent": 53.3, "threshold_10_percent": 62.5})
    'threshold 50 percent 53.3, threshold 10 percent 62.5'
    """
    if isinstance(value, Mapping):
        parts = [
            f"{_STATISTICS.get(name, name.replace('_', ' '))} {reported_text(part, in_full)}"
            for name, part in value.items()
            if name != "mean" and (in_full or name == "sd" or "mean" not in value)
        ]
        text = ", ".join(parts)
        if "mean" not in value:
            return text
        return f"{value['mean']} ({text})" if text else str(value["mean"])
    if isinstance(value, list):
        return ", ".join(reported_text(part, in_full) for part in value)
    return str(value)


_STATISTICS = {"sd": "SD", "q1": "Q1", "q3": "Q3"}
