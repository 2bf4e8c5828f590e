"""The cards of all systems, read without composing (and so in milliseconds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from msseg_lightning.run.config.compose import experiments_dir

REQUIRED = ("id", "paper", "idea", "family", "stages", "needs", "reported", "departures")


def read_cards() -> list[dict[str, Any]]:
    """Each experiment's card with its ``name``, in the order of the systems' ids."""
    cards = []
    for path in experiments_dir().glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        cards.append({"name": path.stem, **content["card"]})
    return sorted(cards, key=lambda card: card["id"])


def reported_text(value: object, in_full: bool = True) -> str:
    """What a card says of one reported figure.

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
