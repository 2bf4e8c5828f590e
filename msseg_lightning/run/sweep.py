"""Hyperparameter search: any number of processes on one study, none of them indispensable.

Trials live in an Optuna store: an SQLite file of this machine, made under a lock, or any database
by URL. A process asks for a trial, marks it with who it is and when it was last seen alive, trains
the trial's folds as ordinary runs below ``sweeps/<name>/trials/<hash of its values>`` and reports
after each. A process that dies leaves a trial RUNNING; the next one finds that its owner is gone,
fails it and queues the same values again, whose runs then continue from their last checkpoints.

A trial is worth counting only while fewer trials than wanted were begun before it (numbers are
given out by the store, so all processes agree): the search ends with exactly the number asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msseg_lightning.core.files import atomic_write, write_json
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_seed
from msseg_lightning.run.compose import compose_config
from msseg_lightning.run.search import Search
from msseg_lightning.run.tracked import WriteReport, headline_metrics

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

Evaluate = Callable[[Mapping[str, Any], int, int, Path], Mapping[str, float]]
"""(values, fold, seed, folder of the trial) -> figures of the run."""

BEAT_S = 20.0
MOST_LOST = 5
"""So often the values of a killed trial are queued again."""
LOST_S = 120.0
"""A process of another machine that was not seen alive for this long is taken for dead."""


class ExperimentTrial:
    """Trains one fold of one trial as an ordinary run, without a tracked run of its own.

    Args:
        experiment: name.
        overrides: of all trials.
        report: writes the report of a run.
    """

    def __init__(self, experiment: str, overrides: Sequence[str], report: WriteReport) -> None:
        self.experiment, self.overrides, self.report = experiment, tuple(overrides), report

    def words(self, values: Mapping[str, Any], fold: int, seed: int, folder: Path) -> list[str]:
        """Overrides of one run of a trial."""
        chosen = [f"{key}={_word(value)}" for key, value in values.items()]
        return [
            *self.overrides,
            *chosen,
            f"fold={fold}",
            f"seed={seed}",
            "track=off",
            f"paths.runs='{folder}'",
        ]

    def __call__(
        self, values: Mapping[str, Any], fold: int, seed: int, folder: Path
    ) -> Mapping[str, float]:
        """Figures of the run, without the prefix they have in MLflow."""
        from msseg_lightning.run.experiment import train_experiment

        config = compose_config(self.words(values, fold, seed, folder), self.experiment)
        summary = train_experiment(config, self.report).summary
        return {
            name.removeprefix("result/"): value for name, value in headline_metrics(summary).items()
        }


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


class Sweep:
    """One study.

    Args:
        name: of the study; processes with the same name and store work on the same trials.
        folder: of the sweep: store, trials, tables, plots.
        search: what is tried.
        evaluate: trains a fold of a trial.
        store: database URL; None for an SQLite file in ``folder``.
        fingerprint: what all processes must agree on beside the search; hashed.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        search: Search,
        evaluate: Evaluate,
        store: str | None = None,
        fingerprint: Sequence[str] = (),
    ) -> None:
        self.name, self.folder, self.search, self.evaluate = name, folder, search, evaluate
        self.store, self.fingerprint = store, tuple(fingerprint)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study = self._open()

    # ------------------------------------------------------------------ the store
    def _open(self) -> optuna.Study:
        import optuna
        from filelock import FileLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = self.store or f"sqlite:///{(self.folder / 'study.db').resolve()}"
        waiting: dict[str, Any] = {"timeout": 120} if url.startswith("sqlite") else {}
        with FileLock(self.folder / ".study.lock"):  # two creators of tables are one too many
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs={"connect_args": waiting, "pool_pre_ping": True}
            )
            study = optuna.create_study(
                study_name=self.name,
                storage=storage,
                directions=[goal.direction for goal in self.search.objective],
                sampler=per_trial(self.search),
                pruner=self.search.make_pruner(),
                load_if_exists=True,
            )
            mine = self._settings()
            known = study.user_attrs.get("settings")
            if known is None:
                study.set_user_attr("settings", mine)
            elif known != mine:
                raise MssegError(
                    Problem(
                        "sweep.changed",
                        "a sweep of this name was begun with other settings",
                        file=self.folder,
                        field="name",
                        found=f"settings {known[:12]}, now {mine[:12]}",
                        remedy="give the first command's settings, or name=OTHER",
                        exit_code=ExitCode.CONFIG,
                    )
                )
        return study

    def _settings(self) -> str:
        content = dataclasses.asdict(self.search)
        content.pop("trials")  # more may be asked for later
        content.pop("retrain_best"), content.pop("retrain_seeds")
        text = json.dumps([content, sorted(self.fingerprint)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    # ------------------------------------------------------------------ the search
    def run(self, on_trial: Callable[[optuna.trial.FrozenTrial], None] | None = None) -> None:
        """Work until as many trials as wanted are finished, by this process or others.

        Args:
            on_trial: told of each trial this process finished.
        """
        import optuna

        running = optuna.trial.TrialState.RUNNING
        while True:
            self.free_abandoned()
            counted = self.counted()
            if len(counted) >= self.search.trials:
                if not any(trial.state == running for trial in counted):
                    return
                time.sleep(1.0)  # others still work; one of them may die and be needed again
                continue
            trial = self._ask()
            if trial is None:
                continue
            self._work(trial)
            if on_trial is not None:
                on_trial(self.study.trials[trial.number])

    def counted(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that matter, oldest first: finished, pruned or being worked on."""
        import optuna

        state = optuna.trial.TrialState
        wanted = (state.COMPLETE, state.PRUNED, state.RUNNING)
        trials = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state in wanted]
        return trials[: self.search.trials]

    def _ask(self) -> optuna.Trial | None:
        """A trial of ours; None where others had begun enough before it."""
        import optuna

        state = optuna.trial.TrialState
        trial = self.study.ask()
        trial.set_user_attr("owner", _me())
        trial.set_user_attr("alive", time.time())
        if trial.number not in [one.number for one in self.counted()]:
            trial.set_user_attr("surplus", True)
            self.study.tell(trial, state=state.FAIL)
            return None
        return trial

    def _work(self, trial: optuna.Trial) -> None:
        import optuna

        state = optuna.trial.TrialState
        values = self.search.suggest(trial)
        folder = self.folder / "trials" / trial_name(values)
        rows: list[list[float]] = []
        log.info("trial %d: %s", trial.number, json.dumps(values, default=str))
        with self._heartbeat(trial):
            try:
                for step, fold in enumerate(self.search.folds):
                    figures = self.evaluate(values, fold, self.search.seed, folder)
                    rows.append([goal.value(figures) for goal in self.search.objective])
                    trial.set_user_attr(f"fold{fold}", dict(figures))
                    if len(rows[0]) == 1:
                        trial.report(float(np.mean([row[0] for row in rows])), step)
                        last = step == len(self.search.folds) - 1
                        if not last and trial.should_prune():
                            self.study.tell(trial, state=state.PRUNED)
                            log.info("trial %d: pruned after fold %d", trial.number, fold)
                            return
            except MssegError as error:
                if error.exit_code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
                    self._give_back(trial)
                    raise
                trial.set_user_attr("error", str(error)[:500])
                self.study.tell(trial, state=state.FAIL)
                raise
            except (KeyboardInterrupt, SystemExit):
                self._give_back(trial)
                raise
            means = [float(mean) for mean in np.mean(rows, axis=0)]
            self.study.tell(trial, means)
            log.info("trial %d: %s", trial.number, ", ".join(f"{mean:.4f}" for mean in means))

    def _give_back(self, trial: optuna.Trial) -> None:
        """Fail a trial this process cannot finish and queue its values again."""
        import optuna

        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._queue_again(trial.number, trial.params, trial.user_attrs)

    def _queue_again(
        self, number: int, params: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> None:
        """What kills its process again and again is not tried for ever."""
        times = int(attributes.get("times_lost", 0)) + 1
        if not params or times > MOST_LOST:
            log.warning("trial %d is given up after %d attempts", number, times)
            return
        kept = {"retry_of": number, "times_lost": times}
        self.study.enqueue_trial(dict(params), user_attrs=kept)

    def free_abandoned(self) -> list[int]:
        """Fail trials whose process is gone, and queue their values again.

        Returns:
            Their numbers.
        """
        import optuna
        from filelock import FileLock

        freed = []
        with FileLock(self.folder / ".abandoned.lock"):
            for trial in self.study.get_trials(deepcopy=False):
                if trial.state != optuna.trial.TrialState.RUNNING or not abandoned(trial):
                    continue
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    self._queue_again(trial.number, trial.params, trial.user_attrs)
                    freed.append(trial.number)
                    log.warning("trial %d was left by a process that died", trial.number)
        return freed

    @contextlib.contextmanager
    def _heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_S):
                with contextlib.suppress(Exception):  # a store that is away must not end a training
                    trial.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True, name="sweep heartbeat")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # ------------------------------------------------------------------ the answer
    def finished(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that went through all folds, best first (several goals: the Pareto front)."""
        import optuna

        complete = [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state == optuna.trial.TrialState.COMPLETE
        ]
        if not complete or len(self.search.objective) > 1:
            return list(self.study.best_trials) if complete else []
        best_first = self.search.objective[0].direction == "maximize"
        return sorted(complete, key=lambda trial: trial.values[0], reverse=best_first)

    def retrain(self) -> list[Retrained]:
        """Train the best few again with new seeds; finished runs are kept."""
        found = []
        for trial in self.finished()[: self.search.retrain_best]:
            values = self.search.suggest(_Fixed(trial.params))  # type: ignore[arg-type]  # looks like a trial
            folder = self.folder / "trials" / trial_name(values)
            scores = []
            for seed in self.search.retrain_seeds:
                rows = [
                    self.search.objective[0].value(self.evaluate(values, fold, seed, folder))
                    for fold in self.search.folds
                ]
                scores.append(float(np.mean(rows)))
            found.append(Retrained(trial.number, values, float(trial.values[0]), tuple(scores)))
        return found

    def export(self, retrained: Sequence[Retrained] = ()) -> Path:
        """Write ``trials.csv``, ``best.json`` and ``plots/*.html``; returns the table."""
        table = self.folder / "trials.csv"
        frame = self.study.trials_dataframe()
        with atomic_write(table) as temporary:
            frame.to_csv(temporary, index=False)
        best = [
            {"trial": trial.number, "values": trial.values, "parameters": trial.params}
            for trial in self.finished()[: max(1, self.search.retrain_best)]
        ]
        write_json(
            self.folder / "best.json",
            {
                "study": self.name,
                "selected_on": f"held-out pairs of folds {list(self.search.folds)}",
                "warning": "the search score of the best is the luckiest of many; quote `expected`",
                "best": best,
                "retrained": [
                    dataclasses.asdict(one) | {"expected": expected}
                    for one, expected in zip(retrained, expected_scores(retrained), strict=True)
                ],
            },
        )
        self._plot(self.folder / "plots")
        return table

    def _plot(self, folder: Path) -> None:
        """Optuna's own interactive plots, those that this study has enough trials for."""
        from optuna import visualization

        folder.mkdir(exist_ok=True)
        names = ["optimization_history", "slice", "parallel_coordinate", "param_importances"]
        if len(self.search.objective) > 1:
            names = ["pareto_front"]
        for name in names:
            try:
                figure = getattr(visualization, f"plot_{name}")(self.study)
            except (ValueError, RuntimeError) as error:
                log.info("no %s plot: %s", name, error)
                continue
            with atomic_write(folder / f"{name}.html") as temporary:
                figure.write_html(temporary, include_plotlyjs=True, full_html=True)

    def status(self) -> dict[str, int]:
        """How many trials are in which state, the wanted number among them."""
        counts: dict[str, int] = {"wanted": self.search.trials}
        for trial in self.study.get_trials(deepcopy=False):
            surplus = trial.user_attrs.get("surplus")
            name = "surplus" if surplus else trial.state.name.lower()
            counts[name] = counts.get(name, 0) + 1
        return counts


@dataclasses.dataclass(frozen=True)
class Retrained:
    """A candidate trained again.

    Args:
        trial: its number.
        values: its settings.
        search_score: by which it was chosen, and so too good.
        scores: mean over the folds, one per new seed.
    """

    trial: int
    values: Mapping[str, Any]
    search_score: float
    scores: tuple[float, ...]


def expected_scores(retrained: Sequence[Retrained]) -> list[float | None]:
    """What each candidate can be expected to score: its new runs, drawn towards the mean of all.

    The best of several noisy means is best by luck, too. With ``b`` the variance between candidates
    beyond noise and ``w`` the variance of one candidate's mean over its new seeds, its deviation
    from the mean of all is multiplied by ``b / (b + w)`` (Efron and Morris 1975). With a single
    new seed ``w`` is unknown and the mean of all is returned.
    """
    rows = [np.array(one.scores) for one in retrained]
    if not rows or any(len(row) == 0 for row in rows):
        return [None] * len(rows)
    means = np.array([row.mean() for row in rows])
    centre = means.mean()
    if len(rows) < 2 or any(len(row) < 2 for row in rows):
        return [float(centre)] * len(rows)
    noise = float(np.mean([row.var(ddof=1) / len(row) for row in rows]))
    between = max(0.0, float(means.var(ddof=1)) - noise)
    share = between / (between + noise) if between + noise > 0 else 1.0
    return [float(centre + share * (mean - centre)) for mean in means]


def per_trial(search: Search) -> optuna.samplers.BaseSampler:
    """A sampler that starts afresh for every trial, from the seed and the trial's number.

    A search is then a function of its seed however often it is stopped, and processes that begin at
    the same moment draw different values.
    """
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    class PerTrial(BaseSampler):
        def __init__(self) -> None:
            self.inner = search.make_sampler()

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            seed = keyed_seed(search.seed, "sweep", trial.number) % 2**31
            self.inner = dataclasses.replace(search, seed=seed).make_sampler()
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
            self.inner.after_trial(study, trial, state, values)

    return PerTrial()


class _Fixed:
    """Gives the values of an old trial to ``Search.suggest``."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def _value(self, key: str, *limits: Any, **options: Any) -> Any:
        return self.params[key]

    suggest_float = suggest_int = suggest_categorical = _value


def trial_name(values: Mapping[str, Any]) -> str:
    """Folder of a trial: a repetition finds the checkpoints of the one that was killed."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _me() -> str:
    import psutil

    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def abandoned(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether the process that works on a trial is gone."""
    import psutil

    owner = str(trial.user_attrs.get("owner", "")).split()
    if len(owner) == 3 and owner[0] == platform.node():
        try:
            started = psutil.Process(int(owner[1])).create_time()
        except psutil.NoSuchProcess:
            return True
        return abs(started - float(owner[2])) > 2
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - float(trial.user_attrs.get("alive", begun)) > LOST_S
