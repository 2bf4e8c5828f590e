"""Samplers and pruners of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.random import keyed_seed
from msseg_lightning.run.sweep.space import Search

if TYPE_CHECKING:
    import optuna


def make_sampler(search: Search) -> optuna.samplers.BaseSampler:
    """Build the sampler; a grid needs steps for every number."""
    import optuna

    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=search.seed, constant_liar=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=search.seed),
        "grid": lambda: optuna.samplers.GridSampler(
            {parameter.key: parameter.grid() for parameter in search.space}, seed=search.seed
        ),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=search.seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=search.seed),
    }
    return samplers[search.sampler]()


def make_pruner(search: Search) -> optuna.pruners.BasePruner:
    """Build the pruner, which compares means over folds."""
    import optuna

    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=len(search.folds), reduction_factor=2
        )
    return optuna.pruners.NopPruner()


def reseeded_sampler(search: Search) -> optuna.samplers.BaseSampler:
    """Build a sampler that is seeded for every trial from the search's seed and the trial's number.

    An interrupted search then gives the same trials as an uninterrupted one, and processes that
    start at the same time draw different values. A grid keeps one seed, which determines the order
    of its points.
    """
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    grid = search.sampler == "grid"

    class ReseededSampler(BaseSampler):
        def __init__(self) -> None:
            self.inner = make_sampler(search)

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            if not grid:
                seed = keyed_seed(search.seed, "sweep", trial.number) % 2**31
                self.inner = make_sampler(dataclasses.replace(search, seed=seed))
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Any:
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> Any:
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(
            self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
        ) -> Any:
            return self.inner.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
            if not grid:  # GridSampler would stop ``Study.optimize``, which is not used
                self.inner.after_trial(study, trial, state, values)

    return ReseededSampler()
