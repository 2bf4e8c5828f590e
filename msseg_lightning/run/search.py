"""What a sweep tries: the space, the goals, how candidates are chosen; read from YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.compose import conf_dir

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsga2")
PRUNERS = ("median", "hyperband", "none")
KINDS = ("float", "int", "categorical")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting that is varied.

    Args:
        key: of the composed configuration, or the name of a group.
        type: ``float``, ``int`` or ``categorical``.
        low, high: limits, both included.
        log: drawn on a logarithmic scale.
        step: distance of values.
        choices: of a categorical.
        when: only where these other parameters have these values.
    """

    key: str
    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: Sequence[Any] = ()
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value of this trial."""
        if self.type == "categorical":
            return trial.suggest_categorical(self.key, list(self.choices))
        assert self.low is not None and self.high is not None
        if self.type == "int":
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.key, low, high, step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> list[Any]:
        """All values, for a grid search: choices, or the steps between the limits."""
        if self.type == "categorical":
            return list(self.choices)
        assert self.low is not None and self.high is not None
        step = self.step or (1 if self.type == "int" else None)
        if step is None:
            raise _refused(
                f"space.{self.key}", "no step", "a step, so that a grid has ends", self.key
            )
        count = round((self.high - self.low) / step) + 1
        values = [self.low + index * step for index in range(count)]
        return [int(value) for value in values] if self.type == "int" else values


@dataclasses.dataclass(frozen=True)
class Objective:
    """What counts as better.

    Args:
        metric: a headline figure of a run, e.g. ``lesion_f1``.
        direction: ``maximize`` or ``minimize``.
        budget: most false lesions per pair without new lesions; None for no limit.
    """

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"
    budget: float | None = None

    def value(self, figures: Mapping[str, float]) -> float:
        """Figures of one fold -> goal. Over budget a trial ranks below every one within it.

        Over a budget the value is ``-e / (1 + e)`` for ``e`` false lesions too many (between 0 and
        -1), or its opposite plus 1e9 where less is better.

        Raises:
            MssegError: the figure is undefined on these pairs (exit 3).
        """
        found = figures.get(self.metric, math.nan)
        if not math.isfinite(found):
            raise MssegError(
                Problem(
                    "sweep.metric",
                    "this figure is undefined on a fold",
                    field=f"search.objective.metric={self.metric}",
                    found=", ".join(sorted(figures)),
                    expected="a figure that every fold has",
                    remedy="folds need pairs with and without new lesions; or choose another",
                )
            )
        if self.budget is None:
            return found
        excess = figures.get("false_lesions_per_case_without", 0.0) - self.budget
        if not excess > 0:
            return found
        penalty = excess / (1 + excess)
        return -penalty if self.direction == "maximize" else 1e9 + penalty


@dataclasses.dataclass(frozen=True)
class Search:
    """A whole search; see ``conf/search/default.yaml``."""

    trials: int
    folds: tuple[int, ...]
    seed: int
    sampler: str
    pruner: str
    objective: tuple[Objective, ...]
    space: tuple[Parameter, ...]
    retrain_best: int
    retrain_seeds: tuple[int, ...]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Key -> value of one trial; conditional parameters only where they apply."""
        chosen: dict[str, Any] = {}
        for parameter in self.space:
            if all(chosen.get(key) == value for key, value in parameter.when.items()):
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def make_sampler(self) -> optuna.samplers.BaseSampler:
        """The sampler; grid needs steps on every number."""
        import optuna

        samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=self.seed, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=self.seed),
            "grid": lambda: optuna.samplers.GridSampler(
                {parameter.key: parameter.grid() for parameter in self.space}, seed=self.seed
            ),
            "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=self.seed),
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=self.seed),
        }
        return samplers[self.sampler]()

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Compares means over folds; a median needs five finished trials first."""
        import optuna

        if self.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
        if self.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=len(self.folds), reduction_factor=2
            )
        return optuna.pruners.NopPruner()


def read_search(name: str, changes: Mapping[str, Any] | None = None) -> Search:
    """A file of ``conf/search`` with some values changed.

    Args:
        name: of the file, without ``.yaml``.
        changes: dotted key -> value, e.g. ``{"trials": 12}``.

    Raises:
        MssegError: no such file, an unknown key, a value that cannot be used (exit 2).
    """
    file = conf_dir() / "search" / f"{name}.yaml"
    known = sorted(path.stem for path in file.parent.glob("*.yaml"))
    if name not in known:
        raise _refused("search", name, ", ".join(known), name)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, value in (changes or {}).items():
        if key.startswith("space."):  # a parameter's own name holds dots
            content["space"][key.removeprefix("space.")] = value
            continue
        *parents, last = key.split(".")
        node = content
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise _refused(f"search.{key}", str(value), ", ".join(content), key)
        node[last] = value
    return parse(content)


def parse(content: Mapping[str, Any]) -> Search:
    """Check and convert.

    Raises:
        MssegError: with the first thing that cannot be used (exit 2).
    """
    expected = {"trials", "folds", "seed", "sampler", "pruner", "objective", "space", "retrain"}
    if set(content) != expected:
        difference = ", ".join(sorted(set(content) ^ expected))
        raise _refused("search", difference, ", ".join(sorted(expected)), difference)
    try:
        space = tuple(
            Parameter(key=key, **value) for key, value in content["space"].items() if value
        )
        objective = tuple(Objective(**one) for one in content["objective"])
        search = Search(
            trials=int(content["trials"]),
            folds=tuple(int(fold) for fold in content["folds"]),
            seed=int(content["seed"]),
            sampler=content["sampler"],
            pruner=content["pruner"],
            objective=objective,
            space=space,
            retrain_best=int(content["retrain"]["best"]),
            retrain_seeds=tuple(int(seed) for seed in content["retrain"]["seeds"]),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise _refused("search", str(error), "see conf/search/default.yaml", "search") from error
    _check(search)
    return search


def _check(search: Search) -> None:
    if search.trials < 1 or not search.folds:
        raise _refused(
            "search.trials", str(search.trials), "1 or more, on 1 fold or more", "trials"
        )
    if search.sampler not in SAMPLERS:
        raise _refused("search.sampler", search.sampler, ", ".join(SAMPLERS), "sampler")
    if search.pruner not in PRUNERS:
        raise _refused("search.pruner", search.pruner, ", ".join(PRUNERS), "pruner")
    if not search.space or not search.objective:
        raise _refused("search.space", "nothing", "one parameter and one goal", "space")
    if len(search.objective) > 1 and search.pruner != "none":
        raise _refused("search.pruner", search.pruner, "none: several goals cannot be pruned", "")
    for goal in search.objective:
        if goal.direction not in ("maximize", "minimize"):
            raise _refused("search.objective", goal.direction, "maximize or minimize", "direction")
    for one in search.space:
        place = f"search.space.{one.key}"
        if one.type not in KINDS:
            raise _refused(place, one.type, ", ".join(KINDS), "type")
        if one.type == "categorical" and not one.choices:
            raise _refused(place, "no choices", "choices: [...]", "choices")
        if one.type != "categorical" and (
            one.low is None or one.high is None or not one.low <= one.high
        ):
            raise _refused(place, f"{one.low} to {one.high}", "low <= high", "low")
        if one.log and (one.low or 0) <= 0:
            raise _refused(place, f"low: {one.low}", "above 0 on a logarithmic scale", "low")


def _refused(field: str, found: str, expected: str, key: str) -> MssegError:
    return MssegError(
        Problem(
            "sweep.search",
            "this search cannot be used",
            field=field,
            found=found,
            expected=expected,
            remedy=f"change {key or field} in conf/search, or give search.KEY=VALUE",
            exit_code=ExitCode.CONFIG,
        )
    )
