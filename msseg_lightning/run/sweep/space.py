"""Definition of a search: search space, objectives, sampler and pruner; read from YAML."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.preset_files import conf_dir, preset_file, preset_files, read_yaml

if TYPE_CHECKING:
    import optuna

MAX_POINTS = 100_000
"""Largest grid."""
SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsga2")
PRUNERS = ("median", "hyperband", "none")
KINDS = ("float", "int", "categorical")
BUDGET_METRIC = "false_lesions_per_case_without"
"""Metric that a budget limits."""


GOAL = "search.objective='[{metric: lesion_f1, direction: maximize, budget: 2.0}]'"
"""An override that sets an objective, for remedies."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a search space.

    Args:
        key: key of the configuration, or the name of a group.
        type: ``float``, ``int`` or ``categorical``.
        low, high: limits, both included.
        log: drawn on a logarithmic scale.
        step: distance of values.
        choices: of a categorical parameter; a list among them, e.g. a patch size, becomes text.
        when: values of earlier parameters for which this parameter is used.
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
        """The value of this parameter in a trial."""
        if self.type == "categorical":
            return trial.suggest_categorical(self.key, list(self.choices))
        assert self.low is not None and self.high is not None
        if self.type == "int":
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.key, low, high, step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def applies(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the condition ``when`` holds for the values of earlier parameters."""
        return all(key in chosen and chosen[key] == value for key, value in self.when.items())

    def accepts(self, value: Any) -> bool:
        """Whether a value is in the range or among the choices."""
        if self.type == "categorical":
            return value in self.choices
        assert self.low is not None and self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high

    def extremes(self) -> list[Any]:
        """All choices, or both limits."""
        if self.type == "categorical":
            return list(self.choices)
        ends = dict.fromkeys((self.low, self.high))
        return [int(end) if self.type == "int" else end for end in ends if end is not None]

    def grid(self) -> list[Any]:
        """All values, for a grid search: choices, or the steps between the limits."""
        if self.type == "categorical":
            return list(self.choices)
        assert self.low is not None and self.high is not None
        step = self.step or (1 if self.type == "int" else None)
        if step is None:
            raise _refused(
                f"search.space.{self.key}",
                "no step",
                "a step, which a grid needs",
                "search.sampler=tpe",
            )
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > MAX_POINTS:  # a list of a billion values would fill the memory
            raise _too_many(count)
        values = [min(self.low + index * step, self.high) for index in range(count)]
        return [int(value) for value in values] if self.type == "int" else values

    def values(self, draw: random.Random) -> Iterator[Any]:
        """All values, starting with a drawn one; of a range without steps one drawn value."""
        if self.type == "float" and self.step is None and self.low != self.high:
            assert self.low is not None and self.high is not None
            ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            drawn = draw.uniform(*ends)
            yield min(max(math.exp(drawn) if self.log else drawn, self.low), self.high)
            return
        known: Sequence[Any]
        if self.type == "int":
            assert self.low is not None and self.high is not None
            known = range(int(self.low), int(self.high) + 1, int(self.step or 1))
        else:
            known = [self.low] if self.type == "float" and self.low == self.high else self.grid()
        start = draw.randrange(len(known))
        yield from known[start:]
        yield from known[:start]


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective of a search.

    Args:
        metric: a metric of a run, e.g. ``lesion_f1``.
        direction: ``maximize`` or ``minimize``.
        budget: largest number of false lesions per pair without new lesions; None for no limit.
    """

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"
    budget: float | None = None

    def value(self, figures: Mapping[str, float]) -> float:
        """Value of the objective; a trial over the budget ranks below every one within it.

        Over the budget the value is ``-e / (1 + e)`` for ``e`` false lesions too many (between 0
        and -1), or ``1e9 + e / (1 + e)`` if the objective is minimised.

        Args:
            figures: metrics averaged over the folds, from ``mean_figures``; the budget limits the
                mean, not each fold.

        Raises:
            MssegError: a metric is undefined on these pairs (exit 3).
        """
        found = self._figure(figures, self.metric)
        if self.budget is None:
            return found
        excess = self._figure(figures, BUDGET_METRIC) - self.budget
        if not excess > 0:
            return found
        penalty = excess / (1 + excess)
        return -penalty if self.direction == "maximize" else 1e9 + penalty

    def _figure(self, figures: Mapping[str, float], name: str) -> float:
        found = figures.get(name, math.nan)
        if not math.isfinite(found):
            raise MssegError(
                Problem(
                    "sweep.metric",
                    "this metric is undefined on the held-out pairs of these folds",
                    field=f"search.objective: {name}",
                    found=", ".join(sorted(figures)),
                    expected="a metric that is defined in at least one fold",
                    remedy="folds need pairs with and without new lesions; or choose another goal",
                )
            )
        return found


def mean_figures(folds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means of metrics over the folds in which they are defined."""
    columns: dict[str, list[float]] = {}
    for figures in folds:
        for name, value in figures.items():
            if math.isfinite(value):
                columns.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}


@dataclasses.dataclass(frozen=True)
class Search:
    """Definition of a search; see ``conf/search/default.yaml``."""

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
        """Values of a trial by key; conditional parameters only where they apply."""
        chosen: dict[str, Any] = {}
        for parameter in self.space:
            if parameter.applies(chosen):
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def new_point(self, seen: Collection[str], seed: int) -> dict[str, Any] | None:
        """A random point of the space that is not in ``seen``; None if there is no other.

        Args:
            seen: keys of points, from ``point_key``.
            seed: seed of the random choice.
        """
        draw = random.Random(seed)

        def points(chosen: dict[str, Any], left: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
            if not left:
                yield chosen
                return
            one, *rest = left
            if not one.applies(chosen):
                yield from points(chosen, rest)
                return
            for value in one.values(draw):
                yield from points({**chosen, one.key: value}, rest)

        return next((one for one in points({}, self.space) if point_key(one) not in seen), None)

    def goals(self, folds: Iterable[Mapping[str, float]]) -> list[float]:
        """Values of all objectives from the metrics of some folds.

        Raises:
            MssegError: see ``Objective.value``.
        """
        means = mean_figures(folds)
        return [goal.value(means) for goal in self.objective]

    def extreme_points(self) -> list[dict[str, Any]]:
        """A few points that together contain every choice and both limits of every range."""
        found = []
        count = max(len(parameter.extremes()) for parameter in self.space)
        for index in range(count):
            chosen: dict[str, Any] = {}
            for parameter in self.space:
                extremes = parameter.extremes()
                if parameter.applies(chosen):
                    chosen[parameter.key] = extremes[index % len(extremes)]
            found.append(chosen)
        for parameter in self.space:  # conditional ones whose condition did not hold so far
            missing = [end for end in parameter.extremes() if not _held(found, parameter.key, end)]
            found += [{**parameter.when, parameter.key: end} for end in missing]
        return found

    def as_dict(self) -> dict[str, Any]:
        """The definition as a dictionary that ``parse`` accepts."""
        goals = [dataclasses.asdict(goal) for goal in self.objective]
        space = {one.key: dataclasses.asdict(one) for one in self.space}
        for one in space.values():
            one.pop("key")
        return {
            "trials": self.trials,
            "folds": list(self.folds),
            "seed": self.seed,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "objective": goals,
            "space": space,
            "retrain": {"best": self.retrain_best, "seeds": list(self.retrain_seeds)},
        }


def point_key(values: Mapping[str, Any]) -> str:
    """Values of a trial as text, equal for equal points of the space."""
    return json.dumps(
        {key: f"{v:.12g}" if isinstance(v, float) else v for key, v in values.items()},
        sort_keys=True,
        default=str,
    )


def read_search(
    name: str, changes: Mapping[str, Any] | None = None, experiment: str = ""
) -> Search:
    """Read a file of ``conf/search``, completed by its ``default.yaml``, with changed values.

    Args:
        name: a preset, of the user or of this package, or a file.
        changes: dotted key -> value, e.g. ``{"trials": 12}``.
        experiment: name or file of the experiment, beside which presets may lie too.

    Raises:
        MssegError: no such file, an unknown key, or an invalid value (exit 2).
    """
    file = preset_file("search", name, experiment)
    if file is None:
        known = ", ".join(sorted(preset_files("search", experiment)))
        raise _refused("search", name, f"{known}, or a file", "search=default")
    content = {**read_yaml(conf_dir() / "search" / "default.yaml"), **read_yaml(file)}
    for key, value in (changes or {}).items():
        if key.startswith("space."):  # a parameter's own name holds dots
            content["space"][key.removeprefix("space.")] = value
            continue
        *parents, last = key.split(".")
        node: Any = content
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            leave = f"leave search.{key} out"
            raise _refused(f"search.{key}", str(value), ", ".join(content), leave)
        node[last] = value
    return parse(content)


def parse(content: Mapping[str, Any]) -> Search:
    """Convert a dictionary to a search, and check it.

    Raises:
        MssegError: with the first invalid value (exit 2).
    """
    expected = {"trials", "folds", "seed", "sampler", "pruner", "objective", "space", "retrain"}
    if set(content) != expected:
        difference = ", ".join(sorted(set(content) ^ expected))
        raise _refused("search", difference, ", ".join(sorted(expected)), "search=default")
    try:
        space = tuple(_parameter(key, value) for key, value in content["space"].items() if value)
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
        raise _refused(
            "search",
            str(error),
            "values of the form they have in conf/search/default.yaml",
            "leave out the search.KEY=VALUE of another form",
        ) from error
    _check(search)
    return search


def _parameter(key: str, content: Mapping[str, Any]) -> Parameter:
    numbers = {
        name: float(content[name])  # YAML reads 1e-5, without a point, as text
        for name in ("low", "high", "step")
        if content.get(name) is not None
    }
    choices = [
        str(choice) if isinstance(choice, list) else choice for choice in content.get("choices", ())
    ]
    return Parameter(key=key, **{**content, **numbers, "choices": tuple(choices)})


def _held(found: Sequence[Mapping[str, Any]], key: str, value: Any) -> bool:
    return any(key in one and one[key] == value for one in found)


def _check(search: Search) -> None:
    folds, seeds = search.folds, search.retrain_seeds
    if search.trials < 1:
        raise _refused("search.trials", str(search.trials), "1 or more", "search.trials=20")
    if search.retrain_best < 0:
        best = "search.retrain.best=3"
        raise _refused("search.retrain.best", str(search.retrain_best), "0 or more", best)
    if not folds or len(set(folds)) < len(folds) or min(folds) < 0:
        one = "search.folds=[0,1,2]"
        raise _refused("search.folds", str(list(folds)), "different folds, one or more", one)
    if search.sampler not in SAMPLERS:
        raise _refused("search.sampler", search.sampler, ", ".join(SAMPLERS), "search.sampler=tpe")
    if search.pruner not in PRUNERS:
        raise _refused("search.pruner", search.pruner, ", ".join(PRUNERS), "search.pruner=none")
    if not search.space or not search.objective:
        raise _refused(
            "search.space",
            "nothing",
            "one parameter and one goal",
            "leave out what empties them: search.objective=[] or search.space.KEY=null",
        )
    if len(search.objective) > 1 and search.pruner != "none":
        expected = "none: several goals cannot be pruned"
        raise _refused("search.pruner", search.pruner, expected, "search.pruner=none")
    if len(search.objective) > 1 and search.sampler == "cmaes":
        expected = "nsga2 or tpe for several goals"
        raise _refused("search.sampler", "cmaes", expected, "search.sampler=nsga2")
    for goal in search.objective:
        if goal.direction not in ("maximize", "minimize"):
            raise _refused("search.objective", goal.direction, "maximize or minimize", GOAL)
        if goal.budget is not None and not isinstance(goal.budget, int | float):
            raise _refused("search.objective", str(goal.budget), "a number, or null", GOAL)
    if search.retrain_best and (not seeds or search.seed in seeds or len(set(seeds)) < len(seeds)):
        raise _refused(
            "search.retrain.seeds",
            str(list(seeds)),
            f"different seeds, none of them the search's own ({search.seed})",
            f"search.retrain.seeds=[{search.seed + 1},{search.seed + 2}]",
        )
    for index, parameter in enumerate(search.space):
        _check_parameter(parameter, search.space[:index])
    if search.sampler == "grid" and any(one.when for one in search.space):
        expected = "no `when`, which would repeat points of the grid"
        raise _refused("search.sampler", "grid", expected, "search.sampler=tpe")
    points = _points(search) if search.sampler == "grid" else math.inf
    if search.trials > points:
        raise _refused(
            "search.trials",
            str(search.trials),
            f"{points}, the whole grid",
            f"search.trials={points}",
        )


def _points(search: Search) -> int:
    points = math.prod(len(parameter.grid()) for parameter in search.space)
    if points > MAX_POINTS:
        raise _too_many(points)
    return points


def _too_many(points: int) -> MssegError:
    remedy = "search.sampler=tpe, or give numbers larger steps"
    return _refused("search.space", f"{points} points", f"at most {MAX_POINTS} points", remedy)


def _check_parameter(one: Parameter, earlier: Sequence[Parameter]) -> None:
    place = f"search.space.{one.key}"
    if one.type not in KINDS:
        raise _refused(place, one.type, ", ".join(KINDS), _range_of(place))
    if one.type == "categorical":
        if not one.choices or any(isinstance(choice, Mapping) for choice in one.choices):
            raise _refused(
                place,
                str(list(one.choices)),
                "choices: [texts or numbers]",
                f"{place}='{{type: categorical, choices: [A, B]}}', or {place}=null",
            )
    else:
        _check_range(one, place)
    for key, value in one.when.items():
        other = next((other for other in earlier if other.key == key), None)
        if other is None or not other.accepts(value):
            expected = "an earlier parameter"
            expected = expected if other is None else f"one of its values: {other.extremes()}"
            raise _refused(f"{place}.when", f"{key}: {value}", expected, _range_of(place))


def _check_range(one: Parameter, place: str) -> None:
    low, high, step = one.low, one.high, one.step
    if low is None or high is None or not low <= high or not math.isfinite(high - low):
        raise _refused(place, f"{low} to {high}", "low <= high", _range_of(place))
    if one.type == "int" and not all(
        float(number).is_integer() for number in (low, high, step or 1)
    ):
        raise _refused(place, f"{low} to {high}", "whole numbers", _range_of(place))
    if one.log and low <= 0:
        raise _refused(place, f"low: {low}", "above 0 on a logarithmic scale", _range_of(place))
    if step is not None and (one.log or not 0 < step <= max(high - low, 1e-300)):
        raise _refused(
            place,
            f"step: {step}",
            "above 0, within the range, without log: true",
            _range_of(place),
        )


def _range_of(place: str) -> str:
    """An override that sets a valid range of a parameter, for remedies."""
    return f"{place}='{{type: float, low: 0.1, high: 0.9}}' for example, or {place}=null"


def _refused(field: str, found: str, expected: str, remedy: str) -> MssegError:
    return MssegError(
        Problem(
            "sweep.search",
            "this search cannot be used",
            field=field,
            found=found,
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
    )
