"""The table of systems."""

from __future__ import annotations

import json

from msseg_lightning.cli.list import headline
from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode


def test_list_json_carries_whole_cards(capsys):
    assert main(["list", "--json"]) == ExitCode.OK
    cards = {card["name"]: card for card in json.loads(capsys.readouterr().out)}
    assert cards["pre_unet"]["id"] == "S12"
    assert cards["pre_unet"]["reported"]["dice_percent"]["mean"] == 62.46


def test_a_row_tells_id_name_family_stages_and_figures(capsys):
    assert main(["list"]) == ExitCode.OK
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "experiment", "family", "stages", "reported"]
    (row,) = (row for row in rows if row.split()[1] == "pre_unet")
    assert row.startswith("S12 ") and "62.46" in row


def test_figures_of_a_card_without_any():
    assert headline({}) == headline({"protocol": "own"}) == "none reported"
