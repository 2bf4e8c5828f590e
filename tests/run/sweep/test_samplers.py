"""A sampler is a function of the seed and the trial's number."""

from __future__ import annotations

import dataclasses

import optuna
import pytest

from msseg_lightning.run.sweep.samplers import make_pruner, make_sampler, reseeded_sampler
from tests.run.sweep.toy import search


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("random", optuna.samplers.RandomSampler),
        ("cmaes", optuna.samplers.CmaEsSampler),
        ("nsga2", optuna.samplers.NSGAIISampler),
    ],
)
def test_names_of_samplers(name, kind):
    assert isinstance(make_sampler(search(sampler=name)), kind)


def test_names_of_pruners():
    assert isinstance(make_pruner(search(pruner="median")), optuna.pruners.MedianPruner)
    assert isinstance(make_pruner(search(pruner="hyperband")), optuna.pruners.HyperbandPruner)
    assert isinstance(make_pruner(search()), optuna.pruners.NopPruner)


def drawn(sought, begin=0, trials=6):
    """Values of some trials of a search whose first ones were drawn before a stop."""
    study = optuna.create_study(sampler=reseeded_sampler(sought))
    for _ in range(begin):
        study.add_trial(optuna.create_trial(params={}, distributions={}, value=0.0))
    return [study.ask().suggest_float("x", 0.0, 1.0) for _ in range(trials - begin)]


def test_what_a_trial_draws_follows_from_its_number():
    whole = drawn(search())
    assert len(set(whole)) == 6
    assert drawn(search(), begin=2) == whole[2:]
    assert drawn(dataclasses.replace(search(), seed=1)) != whole
