"""Gradient boosting on tables of voxels, with early stopping by other patients (S01)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.random import keyed_generator, keyed_seed
from msseg_lightning.evaluate.modified_dice import modified_dice
from msseg_lightning.method.booster_files import plain_text

log = logging.getLogger(__name__)

SCORE = "modified_dice"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one or several pairs.

    Args:
        features: (n, columns) float32.
        target: (n,) bool, voxels of new lesions.
        weight: (n,) float32, voxels of the brain a row stands for.
    """

    features: NDArray[np.float32]
    target: NDArray[np.bool_]
    weight: NDArray[np.float32]

    @staticmethod
    def joined(tables: Sequence[Table]) -> Table:
        """Concatenate tables in the order given."""
        return Table(
            np.concatenate([table.features for table in tables]),
            np.concatenate([table.target for table in tables]),
            np.concatenate([table.weight for table in tables]),
        )


@dataclasses.dataclass(frozen=True)
class FittedBooster:
    """A fitted booster.

    Args:
        text: LightGBM's, up to the best round.
        curve: modified Dice of the validation rows after each round.
        best_iteration: number of trees.
        rows: it was fitted on; ``lesion_rows`` of these are new lesions.
    """

    text: str
    curve: tuple[float, ...]
    best_iteration: int
    rows: int
    lesion_rows: int


@dataclasses.dataclass(frozen=True)
class Boosting:
    """Settings of gradient boosting, and number of boosters.

    Args:
        folds: parts of the training patients; each booster is validated on one and fitted on the
            rest.
        rounds: trees at most.
        patience: rounds without a better modified Dice of the validation patients that end a fit.
        learning_rate: of each tree.
        leaves: of a tree, at most.
        least_rows: of a leaf.
        least_weight: of a leaf, as the sum of ``weight * p * (1 - p)``. LightGBM's default of 0.001
            lets the first trees jump to certainty where one voxel in ten thousand is lesion: the
            score of the validation patients then falls from the second round on.
        feature_share: of the columns that each tree may use, drawn anew for each.
    """

    folds: int = 5
    rounds: int = 1000
    patience: int = 50
    learning_rate: float = 0.1
    leaves: int = 31
    least_rows: int = 20
    least_weight: float = 1.0
    feature_share: float = 1.0

    def __post_init__(self) -> None:
        if min(self.folds, self.rounds, self.patience, self.least_rows) < 1 or self.leaves < 2:
            raise ValueError(f"folds, rounds, patience and rows are at least 1, leaves 2: {self}")

    def fit(
        self,
        train: Table,
        validation: Table | None,
        features: Sequence[str],
        seed: int,
        steps: Iterator[int] | None = None,
    ) -> FittedBooster:
        """Fit one booster with the binary objective.

        Args:
            train: rows that the trees are fitted on.
            validation: rows that decide when to stop; None fits all rounds.
            features: names of the columns.
            seed: of the whole system.
            steps: advanced once per round, for a progress bar.
        """
        import lightgbm

        settings = {
            "objective": "binary",
            "metric": "None",  # the modified Dice alone decides
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.least_rows,
            "min_sum_hessian_in_leaf": self.least_weight,
            "feature_fraction": self.feature_share,
            "seed": keyed_seed(seed, "boosting") >> 33,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        rows = lightgbm.Dataset(
            train.features, train.target, weight=train.weight, feature_name=list(features)
        )
        if validation is None:
            booster = lightgbm.train(settings, rows, num_boost_round=self.rounds)
            text = plain_text(booster.model_to_string())
            count, lesions = len(train.target), int(train.target.sum())
            return FittedBooster(text, (), self.rounds, count, lesions)
        held = lightgbm.Dataset(
            validation.features, validation.target, weight=validation.weight, reference=rows
        )
        curve: list[float] = []

        def score(probability: NDArray[Any], _: object) -> tuple[str, float, bool]:
            curve.append(modified_dice(probability, validation.target, validation.weight))
            if steps is not None:
                next(steps, None)
            return SCORE, curve[-1], True

        booster = lightgbm.train(
            settings,
            rows,
            num_boost_round=self.rounds,
            valid_sets=[held],
            feval=score,
            callbacks=[lightgbm.early_stopping(self.patience, verbose=False)],
        )
        best = int(booster.best_iteration)
        text = plain_text(booster.model_to_string(num_iteration=best))
        return FittedBooster(text, tuple(curve), best, len(train.target), int(train.target.sum()))


def nested_folds(positive: Mapping[str, bool], folds: int, seed: int) -> list[frozenset[str]]:
    """Divide patients into validation parts, stratified by whether they have new lesions.

    Args:
        positive: patient -> has new lesions; at least one has.
        folds: how many; fewer where fewer patients have new lesions, since a part without any
            says nothing about when to stop.
        seed: of the shuffling.

    Returns:
        Disjoint sets of patients. With a single patient with new lesions one empty set: the one
        booster is validated on the rows it is fitted on.
    """
    with_lesions = sorted(patient for patient, has in positive.items() if has)
    without = sorted(patient for patient, has in positive.items() if not has)
    count = min(folds, len(with_lesions))
    if count < folds:
        log.warning(
            "%d patients with new lesions allow %d nested folds, not %d",
            len(with_lesions),
            count,
            folds,
        )
    if count < 2:
        return [frozenset()]
    generator = keyed_generator(seed, "nested folds")
    order = [
        group[place]
        for group in (with_lesions, without)
        for place in generator.permutation(len(group))
    ]
    return [frozenset(order[number::count]) for number in range(count)]
