"""The cards of all systems, read from YAML without composing configurations."""

from __future__ import annotations

from typing import Any

from msseg_lightning.run.config.preset_files import preset_files, read_yaml

REQUIRED = ("id", "paper", "idea", "family", "stages", "needs", "reported", "departures")

EMPTY: dict[str, Any] = {
    **dict.fromkeys(("id", "paper", "idea", "family"), ""),
    **dict.fromkeys(("stages", "needs", "departures"), ()),
    "reported": {},
}
"""The card of an experiment that has none, as one of the user may."""


def read_cards() -> list[dict[str, Any]]:
    """The card of every experiment with its ``name``, sorted by the systems' ids."""
    cards = []
    for name, path in preset_files("experiments").items():
        cards.append({"name": name, **EMPTY, **(read_yaml(path).get("card") or {})})
    return sorted(cards, key=lambda card: (not card["id"], card["id"], card["name"]))
