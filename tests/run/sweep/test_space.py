"""A search is refused before it starts, and its goals rank as they say."""

from __future__ import annotations

import math

import optuna
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.preset_files import conf_dir
from msseg_lightning.run.sweep.samplers import make_pruner, make_sampler
from msseg_lightning.run.sweep.space import (
    Objective,
    Parameter,
    Search,
    mean_figures,
    parse,
    read_search,
)

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
    make_sampler(search)
    make_pruner(search)
    assert parse(search.as_dict()) == search


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
        {"objective": [{"metric": "a"}, {"metric": "b"}], "sampler": "cmaes"},
        {"folds": [0, 0]},
        {"retrain": {"best": 1, "seeds": []}},
        {"retrain": {"best": 1, "seeds": [3]}},  # the search's own
        {"space": {"a": {"type": "float", "low": 0, "high": float("inf")}}},
        {"space": {"a": {"type": "int", "low": 0.5, "high": 3}}},
        {"space": {"a": {"type": "float", "low": 0, "high": 1, "step": 2}}},
        {"space": {"a": {"type": "float", "low": 1, "high": 2, "step": 0.1, "log": True}}},
        {"space": {"a": {"type": "categorical", "choices": [{"b": 1}]}}},
        {"space": {"a": {"type": "categorical", "choices": [1], "when": {"b": 1}}}},
        {"sampler": "grid", "space": {"a": {"type": "int", "low": 1, "high": 3}}},  # 3 points
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


def test_a_condition_names_an_earlier_parameter_and_a_value_of_it():
    space = {
        "loss": {"type": "categorical", "choices": ["x", "y"]},
        "k": {"type": "int", "low": 1, "high": 5, "when": {"loss": "z"}},
    }
    with pytest.raises(MssegError, match="one of its values"):
        parse({**PLAIN, "space": space})
    with pytest.raises(MssegError, match="an earlier parameter"):
        parse({**PLAIN, "space": dict(reversed(space.items()))})


def test_corners_hold_every_choice_and_both_ends():
    search = parse(
        {
            **PLAIN,
            "space": {
                "loss": {"type": "categorical", "choices": ["x", "y", "z"]},
                "lr": {"type": "float", "low": "1e-5", "high": 1},  # YAML's word for a number
                "k": {"type": "int", "low": 1, "high": 5, "when": {"loss": "y"}},
                "size": {"type": "categorical", "choices": [[8, 8], None]},
            },
        }
    )
    corners = search.extreme_points()
    held = {(key, value) for one in corners for key, value in one.items()}
    assert held == {
        *(("loss", "x"), ("loss", "y"), ("loss", "z"), ("lr", 1e-5), ("lr", 1.0)),
        *(("k", 1), ("k", 5), ("size", "[8, 8]"), ("size", None)),
    }
    assert all(one["loss"] == "y" for one in corners if "k" in one)


def test_means_leave_out_folds_that_say_nothing():
    assert mean_figures([{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 3.0}, {}]) == {
        "a": 1.5,
        "b": 3.0,
    }


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


@pytest.mark.badinput
@pytest.mark.parametrize(
    "space",
    [
        {"a": {"type": "int", "low": 0, "high": 10**12}},
        {"a": {"type": "float", "low": 0.0, "high": 1.0, "step": 1e-9}},
        {name: {"type": "int", "low": 1, "high": 1000} for name in "abc"},
    ],
)
def test_a_grid_of_a_billion_points_is_refused_before_it_is_listed(space):
    with pytest.raises(MssegError) as caught:
        parse({**PLAIN, "sampler": "grid", "space": space})
    (problem,) = caught.value.problems
    assert (problem.field, problem.exit_code) == ("search.space", ExitCode.CONFIG)
    parse({**PLAIN, "sampler": "tpe", "space": space})  # as the remedy says
