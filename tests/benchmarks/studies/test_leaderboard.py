"""The page of the leaderboard, from a benchmark of which a part is missing."""

from __future__ import annotations

import json

import pytest

from benchmarks.studies import leaderboard
from msseg_lightning.core.problem import ExitCode
from tests.run.benchmark.conftest import composed_once  # noqa: F401  (a fixture)
from tests.run.benchmark.toy import WORDS, begin, refuse, simulate


@pytest.fixture
def cohort(monkeypatch, tmp_path):
    """A cohort that is not rendered; every command of `msseg` as it was given."""
    from msseg_lightning.cli import main as cli
    from msseg_lightning.simulate import cohort as module

    folder, commands, whole = tmp_path / "cohort", [], cli.main
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps({"train": ["001"], "test": ["002"]}))
    monkeypatch.setattr(module, "write_cohort", lambda place, recipe, seed: folder)
    simulate(monkeypatch, refuse)

    def msseg(words):
        if "--one" in words:
            return whole(words)
        commands.append(words)
        own = [
            word for word in words if word.split("=")[0] in ("systems", "seed", "budget.minutes")
        ]
        return whole(["benchmark", words[1], *WORDS, f"paths.leaderboards={tmp_path}", *own])

    monkeypatch.setattr(cli, "main", msseg)
    return commands


def test_the_page_says_what_is_there_and_what_is_missing(cohort, tmp_path):
    page = tmp_path / "docs" / "leaderboard.md"
    only = ["bsi_subtraction", "ohem_unet", "oversampled_unet"]
    words = ["--work", str(tmp_path), "--page", str(page), "--only", *only]
    assert leaderboard.main([*words, "--minutes", "3"]) == ExitCode.PARTIAL
    text = page.read_text()
    assert "2 finished" in text or "6 finished" in text
    assert "cannot be told apart" in text or "is better than" in text
    assert (
        "--one ohem_unet-fold0-seed0" in text
        and "`msseg benchmark simulated`" in text
        and "train.device" in text
        and str(tmp_path) not in text
    )
    assert "| oversampled_unet |" in text and "figures of the papers" in text
    assert (page.parent / "images" / "leaderboard_simulated_intervals.svg").exists()
    first, second = cohort
    assert "budget.minutes=3" in first and "size=cpu" in first
    assert second[-1] == "seed=0,1,2" and "systems=[oversampled_unet,bsi_subtraction]" in second


def test_half_of_a_cohort_of_twenty_has_the_patients_without_lesions():
    from msseg_lightning.run.data.simulate import load_recipe
    from msseg_lightning.simulate.lesion import new_lesion_count

    recipe = load_recipe("small", leaderboard.RECIPE)
    counts = [new_lesion_count(recipe.lesions, 0, index) for index in range(40)]
    assert [sum(count == 0 for count in counts[part]) for part in (slice(20), slice(20, 40))] == [
        6,
        6,
    ]


def test_the_leading_ten_stay_once_they_are_chosen(monkeypatch, tmp_path):
    simulate(monkeypatch)
    begin(tmp_path, "bsi_subtraction,ohem_unet", name="simulated")
    assert leaderboard.first_ten(tmp_path) == []
    begin(tmp_path, "ohem_unet", "seed=1", name="simulated")
    assert leaderboard.first_ten(tmp_path) == ["ohem_unet"]


def test_every_real_patient_is_held_out_in_both_directions(open_ms, tmp_path):
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "split.json").write_text(json.dumps({"train": ["001"], "test": ["002"]}))
    folds = json.loads(leaderboard.real_folds(tmp_path, cohort, open_ms).read_text())["folds"]
    assert len(folds) == 3
    for fold in folds:
        assert "sim-001" in fold["train"] and "sim-002" not in fold["train"] + fold["test"]
        (patient,) = {name.removesuffix("_reversed") for name in fold["test"]}
        assert not [name for name in fold["train"] if name.startswith(patient)]
        assert len(fold["test"]) == 2
