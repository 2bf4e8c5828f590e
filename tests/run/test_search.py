"""A search is refused before it starts, and its goals rank as they say."""

from __future__ import annotations

import math

import optuna
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.compose import conf_dir
from msseg_lightning.run.search import Objective, Parameter, Search, parse, read_search

PLAIN = {
    "trials": 4,
    "folds": [0, 1],
    "seed": 3,
    "sampler": "random",
    "pruner": "none",
    "objective": [{"metric": "dice", "direction": "maximize"}],
    "space": {"a": {"type": "float", "low": 0.0, "high": 1.0}},
    "retrain": {"best": 1, "seeds": [1]},
}


@pytest.mark.parametrize(
    "file", sorted((conf_dir() / "search").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_file_of_the_folder_can_be_used(file):
    search = read_search(file.stem)
    assert isinstance(search, Search)
    search.make_sampler()
    search.make_pruner()


@pytest.mark.parametrize(
    "change",
    [
        {"trials": 0},
        {"folds": []},
        {"sampler": "tpee"},
        {"pruner": "x"},
        {"space": {}},
        {"unknown": 1},
        {"space": {"a": {"type": "float", "low": 2, "high": 1}}},
        {"space": {"a": {"type": "float", "low": 0, "high": 1, "log": True}}},
        {"space": {"a": {"type": "categorical"}}},
        {"space": {"a": {"type": "word", "low": 0, "high": 1}}},
        {"objective": [{"metric": "dice", "direction": "up"}]},
        {"objective": [{"metric": "a"}, {"metric": "b"}], "pruner": "median"},
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused(change):
    with pytest.raises(MssegError) as caught:
        parse({**PLAIN, **change})
    assert caught.value.exit_code == ExitCode.CONFIG


def test_values_may_be_changed_and_parameters_added_by_name():
    search = read_search(
        "default",
        {"trials": 7, "retrain.best": 1, "space.a.b": {"type": "int", "low": 1, "high": 2}},
    )
    assert (search.trials, search.retrain_best) == (7, 1)
    assert "a.b" in [parameter.key for parameter in search.space]
    with pytest.raises(MssegError):
        read_search("default", {"trails": 7})
    with pytest.raises(MssegError, match="optimiser"):
        read_search("optimizer")


def test_a_conditional_parameter_is_drawn_only_where_it_applies():
    search = parse(
        {
            **PLAIN,
            "space": {
                "loss": {"type": "categorical", "choices": ["x", "y"]},
                "loss.k": {"type": "int", "low": 1, "high": 5, "when": {"loss": "y"}},
            },
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [search.suggest(study.ask()) for _ in range(30)]
    assert {"loss.k" in one for one in drawn if one["loss"] == "y"} == {True}
    assert {"loss.k" in one for one in drawn if one["loss"] == "x"} == {False}


def test_a_grid_has_every_step():
    assert Parameter("a", "int", 1, 4).grid() == [1, 2, 3, 4]
    assert Parameter("a", "float", 0.0, 0.5, step=0.25).grid() == [0.0, 0.25, 0.5]
    with pytest.raises(MssegError):
        Parameter("a", "float", 0.0, 1.0).grid()


def test_over_budget_ranks_below_everything_within_and_by_excess():
    goal = Objective("lesion_f1", "maximize", budget=2.0)
    within = goal.value({"lesion_f1": 0.0, "false_lesions_per_case_without": 2.0})
    little = goal.value({"lesion_f1": 0.9, "false_lesions_per_case_without": 3.0})
    much = goal.value({"lesion_f1": 1.0, "false_lesions_per_case_without": 9.0})
    assert within == 0.0
    assert little == -0.5  # one too many: -1 / (1 + 1)
    assert within > little > much > -1
    assert (
        Objective("x", "minimize", 0.0).value({"x": 5.0, "false_lesions_per_case_without": 1.0})
        > 1e8
    )


def test_an_undefined_figure_is_an_error_not_a_zero():
    with pytest.raises(MssegError, match="undefined"):
        Objective("dice").value({"dice": math.nan})
