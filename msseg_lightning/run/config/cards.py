"""The cards of all systems, read from YAML without composing configurations."""

from __future__ import annotations

from typing import Any

import yaml

from msseg_lightning.run.config.compose import experiments_dir

REQUIRED = ("id", "paper", "idea", "family", "stages", "needs", "reported", "departures")


def read_cards() -> list[dict[str, Any]]:
    """The card of every experiment with its ``name``, sorted by the systems' ids."""
    cards = []
    for path in experiments_dir().glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        cards.append({"name": path.stem, **content["card"]})
    return sorted(cards, key=lambda card: card["id"])
