"""What the command says at its end."""

from __future__ import annotations

import json

from msseg_lightning.cli.train import describe, describe_multirun, number
from msseg_lightning.core.files import write_record


def summary(dice, pairs=2):
    return {
        "with_lesions": {
            "cases": ["a", "b"][:pairs],
            "measures": {
                "Dice": {"mean": dice, "interval": [0.1, 0.9]},
                "F1_score": {"mean": None, "interval": None},
            },
            "lesions": {"true": 5, "detected": 3, "predicted": 4, "matched": 3},
        },
        "without_lesions": {
            "cases": ["c"],
            "clean": 1,
            "false_lesions": {"mean": 0.0, "interval": None},
        },
    }


def test_pairs_with_and_without_new_lesions_are_told_apart():
    assert describe(summary(0.5)).splitlines() == [
        "2 pairs with new lesions: Dice 0.500 [0.100, 0.900], lesion F1 undefined, 3 of 5 lesions "
        "detected, 1 false",
        "1 pair without: 1 clean, 0.0 false lesions per pair",
    ]
    assert describe({}) == ""
    assert "with new lesions" not in describe(summary(0.5, pairs=0))


def test_a_figure_without_cases_is_undefined_not_zero():
    assert number({"mean": None, "interval": None}) == "undefined"
    assert number({"mean": 0.25, "interval": None}, ".1f") == "0.2"


def test_seeds_are_summed_up_with_their_spread(tmp_path):
    folders = [tmp_path / str(seed) for seed in range(2)]
    for folder, dice in zip(folders, (0.4, 0.6), strict=True):
        folder.mkdir()
        write_record(folder / "scores.json", {"summary": summary(dice), "cases": {}})
        assert json.loads((folder / "scores.json").read_text())
    said = describe_multirun(folders)
    assert f"out of fold  {folders[1]}" in said
    # SD of 0.4 and 0.6 with n - 1: sqrt(0.02) = 0.141; F1 is undefined in both
    assert "Dice over 2 seeds: 0.500, SD 0.141" in said and "F1_score over" not in said
    assert "over" not in describe_multirun(folders[:1])
