"""Result of a search: the best candidates, their expected scores, tables and plots.

The best of many noisy scores is partly best by chance. The best candidates are therefore trained
again with new seeds, and their new scores are shrunk towards the mean of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msseg_lightning.core.files import atomic_write, write_json
from msseg_lightning.core.table_cells import plain_cell
from msseg_lightning.core.wording import counted
from msseg_lightning.run.sweep.study import SharedStudy

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.trial import FrozenTrial

PLOTS = {
    "optimization_history": "Every trial in the order they began, and the best so far",
    "param_importances": "How much of the difference between trials each setting explains",
    "slice": "Score against each setting alone",
    "parallel_coordinate": "All settings of a trial as one line; drag along an axis to select",
    "pareto_front": "Trials that no other beats in every goal",
}


@dataclasses.dataclass(frozen=True)
class Retrained:
    """A candidate that was trained again with new seeds.

    Args:
        trial: number of the trial.
        values: its settings.
        search_score: mean over the folds during the search; as a maximum of many it is too high.
        scores: mean over the folds, one per new seed.
    """

    trial: int
    values: Mapping[str, Any]
    search_score: float
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """Result of a search, also while it is running.

    Args:
        study: the study.
        best: trials that completed all folds, best of the search first, or the Pareto front.
        retrained: candidates that were trained again, with their expected scores.
        front: whether ``best`` is a Pareto front.
    """

    study: SharedStudy
    best: tuple[FrozenTrial, ...]
    retrained: tuple[tuple[Retrained, float], ...]
    front: bool

    @property
    def winner(self) -> tuple[Retrained, float] | None:
        """The candidate with the best expected score; None before any was trained again."""
        if not self.retrained:
            return None
        upwards = self.study.search.objective[0].direction == "maximize"
        return sorted(
            self.retrained, key=lambda one: (one[1], np.mean(one[0].scores)), reverse=upwards
        )[0]

    def paragraphs(self) -> list[str]:
        """Text that describes the result."""
        search, counts = self.study.search, status(self.study)
        goals = " and ".join(
            f"{goal.metric} ({goal.direction}"
            + ("" if goal.budget is None else f", at most {goal.budget:g} false lesions per pair")
            + ")"
            for goal in search.objective
        )
        pruned = f", {counts['pruned']} of them pruned" if counts.get("pruned") else ""
        ended = sum(trial.state.is_finished() for trial in self.study.counted())
        texts = [
            f"{ended} of {search.trials} trials are finished{pruned}. Each was trained on fold"
            f"{'s' * (len(search.folds) > 1)} {', '.join(map(str, search.folds))}; goal: {goals}."
        ]
        if ended < search.trials and self.study.exhausted():
            texts.append("Every point of the space was tried; there are no others.")
        if failed := self.study.failed():
            named = "; ".join(
                f"trial {trial.number} ({settings_text(trial.params)})" for trial in failed[:10]
            )
            texts.append(
                f"{counted(len(failed), 'point')} failed and will not be tried again: {named}."
            )
        if not self.best:
            return texts
        if self.front:
            texts.append(
                f"{len(self.best)} trials stand on the Pareto front: none of them is beaten in "
                "every goal. Their scores are from the search, so they are too good."
            )
        elif self.winner is None:
            texts.append(
                f"Trial {self.best[0].number} scored best, {score_text(self.best[0].values[0])}. "
                "Part of that is luck: how much, only new seeds can tell (search.retrain)."
            )
        else:
            texts += self._winner_text(*self.winner)
        texts.append(
            "Candidates were compared on the held-out pairs of these folds. No score here is a "
            "test result: keep patients apart for one."
        )
        return texts

    def _winner_text(self, one: Retrained, expected: float) -> list[str]:
        settings = settings_text(one.values)
        scores = ", ".join(map(score_text, one.scores))
        centre = float(np.mean([np.mean(other.scores) for other, _ in self.retrained]))
        highest, level = self.best[0], all(other == expected for _, other in self.retrained)
        texts = [f"Winner: trial {one.trial} with {settings}."]
        drawn = (
            f", drawn towards the mean {score_text(centre)} of all {len(self.retrained)} "
            "candidates as far as seeds alone explain their differences"
        )
        seeds = ", ".join(map(str, self.study.search.retrain_seeds))
        texts.append(
            f"In the search it scored {score_text(one.search_score)}; trained again "
            f"(seeds {seeds}) it scored {scores}. Expect {score_text(expected)}: the mean of its "
            f"new runs{drawn if len(self.retrained) > 1 else ''}."
        )
        if highest.number != one.trial and not level:
            texts.append(
                f"Trial {highest.number} scored best in the search, "
                f"{score_text(highest.values[0])}, but did not hold it."
            )
        if level and len(self.retrained) > 1:
            texts.append("Seeds alone explain all of it: none of these candidates is shown better.")
        goal = self.study.search.objective[0]
        if goal.budget is not None and (expected < 0 or expected > 1e8):
            texts.append("It exceeds the budget of false lesions: no candidate kept it.")
        return texts


def sweep_result(study: SharedStudy) -> SweepResult:
    """The result of a search, also while it is running."""
    again = retrained(study)
    return SweepResult(
        study=study,
        best=tuple(study.finished()),
        retrained=tuple(zip(again, expected_scores(again), strict=True)),
        front=len(study.search.objective) > 1,
    )


def retrained_name(number: int, seed: int, fold: int) -> str:
    """Key in the store for the metrics of a candidate's run with a new seed."""
    return f"retrained/trial{number}/seed{seed}/fold{fold}"


def retrained(study: SharedStudy) -> list[Retrained]:
    """The candidates that were trained again with all new seeds, best of the search first."""
    search, known = study.search, study.study.user_attrs
    found = []
    for trial in study.finished()[: search.retrain_best]:
        names = [
            [retrained_name(trial.number, seed, fold) for fold in search.folds]
            for seed in search.retrain_seeds
        ]
        if names and all(name in known for seed in names for name in seed):
            scores = tuple(search.goals(known[name] for name in seed)[0] for seed in names)
            found.append(Retrained(trial.number, trial.params, float(trial.values[0]), scores))
    return found


def expected_scores(retrained: Sequence[Retrained]) -> list[float]:
    """Expected score of each candidate: mean of its new runs, shrunk towards the mean of all.

    The best of several noisy means is partly best by chance. With ``b`` the variance between
    candidates beyond noise and ``w`` the variance of one candidate's mean over its new seeds, its
    deviation from the mean of all is multiplied by ``b / (b + w)`` (Efron and Morris 1975). With a
    single new seed, or a single candidate, ``w`` or ``b`` is unknown and the mean of all is
    returned.
    """
    rows = [np.array(one.scores) for one in retrained]
    if not rows:
        return []
    means = np.array([row.mean() for row in rows])
    centre = means.mean()
    if len(rows) < 2 or any(len(row) < 2 for row in rows):
        return [float(centre)] * len(rows)
    noise = float(np.mean([row.var(ddof=1) / len(row) for row in rows]))
    between = max(0.0, float(means.var(ddof=1)) - noise)
    share = between / (between + noise) if between + noise > 0 else 1.0
    return [float(centre + share * (mean - centre)) for mean in means]


def status(study: SharedStudy) -> dict[str, int]:
    """Number of trials in each state, after the wanted number.

    ``killed`` trials were queued again, ``failed`` ended with an error, ``surplus`` were started by
    several machines at once, ``duplicate`` have the values of another trial; none of these counts.
    """
    counts: dict[str, int] = {"wanted": study.search.trials}
    for trial in study.trials():
        known = trial.user_attrs
        name = trial.state.name.lower()
        if name == "fail":
            kinds = {"surplus": "surplus", "duplicate_of": "duplicate", "error": "failed"}
            name = next((texts for key, texts in kinds.items() if key in known), "killed")
        counts[name] = counts.get(name, 0) + 1
    return counts


def goal_text(study: SharedStudy, trial: FrozenTrial) -> str:
    """Scores and settings of a trial, with their names and four digits."""
    goals = zip(study.search.objective, trial.values or (), strict=False)
    scores = "  ".join(f"{goal.metric} {value:.4g}" for goal, value in goals)
    return f"{scores}  {settings_text(trial.params)}"


def export(found: SweepResult, folder: Path) -> Path:
    """Write ``trials.csv``, ``best.json`` and ``plots/*.html``; returns the table."""
    table = folder / "trials.csv"
    frame = found.study.study.trials_dataframe()
    with atomic_write(table) as temporary:
        frame.map(plain_cell).to_csv(temporary, index=False)
    search, winner = found.study.search, found.winner
    shown_best = found.best if found.front else found.best[: max(1, search.retrain_best)]
    write_json(
        folder / "best.json",
        {
            "study": found.study.study.study_name,
            "search": search.as_dict(),
            "status": status(found.study),
            "selected_on": f"held-out pairs of folds {list(search.folds)}",
            "warning": "the search score of the best is the luckiest of many; quote `expected`",
            "winner": None
            if winner is None
            else dataclasses.asdict(winner[0]) | {"expected": winner[1]},
            "best": [
                {"trial": trial.number, "values": trial.values, "parameters": trial.params}
                for trial in shown_best
            ],
            "retrained": [
                dataclasses.asdict(one) | {"expected": expected}
                for one, expected in found.retrained
            ],
            "failed": [
                {"trial": trial.number, "parameters": trial.params, **_error(trial)}
                for trial in found.study.failed()
            ],
            "answer": found.paragraphs(),
        },
    )
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in plots(found.study).items():
        with atomic_write(folder / "plots" / f"{name}.html") as temporary:
            figure.write_html(temporary, include_plotlyjs=True, full_html=True)
    return table


def _error(trial: FrozenTrial) -> dict[str, str]:
    return {"error": trial.user_attrs.get("error", "its process died every time")}


def plots(study: SharedStudy) -> dict[str, go.Figure]:
    """Interactive plots of Optuna for which the study has enough trials."""
    from optuna import logging, visualization

    several = len(study.search.objective) > 1
    names = ["pareto_front"] if several else [name for name in PLOTS if name != "pareto_front"]
    goals = [goal.metric for goal in study.search.objective]
    named: dict[str, Any] = {"target_names": goals} if several else {"target_name": goals[0]}
    found = {}
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # hides warnings on plots without points
    try:
        for name in names:
            try:
                found[name] = getattr(visualization, f"plot_{name}")(study.study, **named)
            except (ValueError, RuntimeError):  # too few trials
                continue
    finally:
        logging.set_verbosity(before)
    return found


def score_text(score: float) -> str:
    """A score to four decimals, a volume to whole mm3."""
    return f"{score:.4f}" if abs(score) < 1000 else f"{score:,.0f}"


def settings_text(values: Mapping[str, Any]) -> str:
    """The settings of a trial as text: ``key=value, ...``."""
    return ", ".join(f"{key}={shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    """A value of a setting as text, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)
