"""Cards of all systems, in their order."""

from __future__ import annotations

from msseg_lightning.run.config.cards import read_cards
from msseg_lightning.run.config.preset_files import experiment_names


def test_there_is_a_card_of_every_experiment_in_the_order_of_ids():
    cards = read_cards()
    assert sorted(card["name"] for card in cards) == sorted(experiment_names())
    ids = [card["id"] for card in cards]
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
