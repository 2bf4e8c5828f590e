"""Worker of a hyperparameter search: trains the folds of each trial of a study.

The folds of a trial are ordinary runs below ``sweeps/<name>/trials/<hash of its values>``. A trial
that is repeated after a kill reuses its finished folds and continues the next from its last
checkpoint; the best trials are trained again with new seeds in the same folder. See
``run.sweep.study`` for how processes share a study.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.overrides import override
from msseg_lightning.run.sweep.result import retrained_name
from msseg_lightning.run.sweep.space import Search
from msseg_lightning.run.sweep.storage import reachable
from msseg_lightning.run.sweep.study import SharedStudy
from msseg_lightning.run.train.folds_and_seeds import is_finished
from msseg_lightning.run.train.mlflow_run import headline_metrics
from msseg_lightning.run.train.shared_jobs import run_shared_jobs

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

Figures = Mapping[str, float]
Evaluate = Callable[[Mapping[str, Any], int, int, Path], Figures]
"""(values, fold, seed, folder of the trial) -> metrics of the run."""
Watch = Callable[[int], AbstractContextManager[None]]
"""Context that is entered before the first fold of a trial and left after its end is stored."""

MAX_FAILURES = 3
"""Number of failed trials in a row after which the search ends with the last error."""


class ExperimentTrial:
    """Trains one fold of a trial as an ordinary run that is not tracked itself.

    Args:
        experiment: name of the experiment.
        overrides: overrides of all trials.
    """

    def __init__(self, experiment: str, overrides: Sequence[str]) -> None:
        self.experiment, self.overrides = experiment, tuple(overrides)

    def run_overrides(
        self, values: Mapping[str, Any], fold: int, seed: int, folder: Path
    ) -> list[str]:
        """Overrides of one run of a trial."""
        return [
            *self.overrides,
            *trial_overrides(values),
            f"fold={fold}",
            f"seed={seed}",
            "track=off",
            override("paths.runs", str(folder)),
        ]

    def __call__(self, values: Mapping[str, Any], fold: int, seed: int, folder: Path) -> Figures:
        """Train a fold, unless it is finished, and return its metrics without ``result/``.

        Raises:
            MssegError: the training failed, or another process has the run (``run.busy``).
        """
        from msseg_lightning.run.folder import RunFolder
        from msseg_lightning.run.train.experiment import train_experiment

        config = compose_config(self.run_overrides(values, fold, seed, folder), self.experiment)
        run = RunFolder.from_config(config)
        if is_finished(run, config):
            summary = run.scores()["summary"]
        else:  # `msseg report` writes the report of a single trial
            summary = train_experiment(config, with_report=False).summary
        return {
            name.removeprefix("result/"): value for name, value in headline_metrics(summary).items()
        }


def trial_overrides(values: Mapping[str, Any]) -> list[str]:
    """Overrides for the values of a trial."""
    return [override(key, value) for key, value in values.items()]


class Sweep:
    """Runs a search.

    Args:
        name: name of the study; processes with the same name and store share its trials.
        folder: folder of the sweep for store, trials, tables and plots.
        search: definition of the search.
        evaluate: trains a fold of a trial.
        store: database URL; None for an SQLite file in ``folder``.
        fixed: further settings that must be equal in all processes.

    Raises:
        MssegError: see ``SharedStudy.begin``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        search: Search,
        evaluate: Evaluate,
        store: str | None = None,
        fixed: Sequence[str] = (),
    ) -> None:
        self.name, self.folder, self.search, self.evaluate = name, folder, search, evaluate
        self.store = store
        self.study = SharedStudy.begin(name, folder, search, fixed, store)

    # ------------------------------------------------------------------ the search
    def run(self, watch: Watch = lambda number: contextlib.nullcontext()) -> None:
        """Run trials until all processes together have finished the wanted number.

        Args:
            watch: see ``Watch``.

        Raises:
            MssegError: three trials in a row failed, or the command was interrupted; the trial is
                then queued again.
        """
        failed = 0
        with reachable(self.store):
            while not self.study.done():
                taken = self.study.next_point()
                if taken is None:
                    if not self.study.done():
                        time.sleep(1.0)  # trials of other processes are running and may be requeued
                    continue
                trial, values = taken
                try:
                    self._work(trial, values, watch)
                    failed = 0
                except Exception as error:
                    failed += 1
                    if not caused_by_values(error) or failed == MAX_FAILURES:
                        raise
                    log.warning("trial %d failed: %s", trial.number, error)
            if (ended := len(self.study.counted())) < self.search.trials:
                log.warning(
                    "every point of the space was tried: %d of %d trials are finished, %d failed",
                    ended,
                    self.search.trials,
                    len(self.study.failed()),
                )

    def _work(self, trial: optuna.Trial, values: Mapping[str, Any], watch: Watch) -> None:
        log.info("trial %d: %s", trial.number, json.dumps(values, default=str))
        with watch(trial.number), self.study.heartbeat(trial):
            self._run_trial(trial, values)

    def _run_trial(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        try:
            goals = self._run_folds(trial, values)
        except BaseException as error:
            if caused_by_values(error):
                self.study.fail(trial, error=f"{type(error).__name__}: {error}"[:500])
            else:
                self.study.requeue(trial.number)
            raise
        self.study.end(trial, goals)
        said = "pruned" if goals is None else ", ".join(f"{goal:.4f}" for goal in goals)
        log.info("trial %d: %s", trial.number, said)

    def _run_folds(self, trial: optuna.Trial, values: Mapping[str, Any]) -> list[float] | None:
        """Goals over all folds; None if the trial is pruned."""
        folder = self.folder / "trials" / trial_name(values)
        found: list[Figures] = []
        for done, fold in enumerate(self.search.folds, start=1):

            def train(fold: int) -> None:
                found.append(self.evaluate(values, fold, self.search.seed, folder))

            run_shared_jobs([fold], train)  # another trial may have the same values
            trial.set_user_attr(f"fold{fold}", dict(found[-1]))
            last = done == len(self.search.folds)
            try:
                goals = self.search.goals(found)
            except MssegError:
                if last:
                    raise
                continue  # the metric is undefined for the folds so far
            if len(goals) == 1:
                trial.report(goals[0], done)
                if not last and trial.should_prune():
                    return None
        return goals

    # ------------------------------------------------------------------ training the best again
    def retrain(self) -> None:
        """Train the best trials again with new seeds; processes share the runs."""
        if len(self.search.objective) > 1:
            return
        best = [trial.number for trial in self.study.finished()[: self.search.retrain_best]]
        jobs = itertools.product(best, self.search.retrain_seeds, self.search.folds)
        with reachable(self.store):
            run_shared_jobs(jobs, self._retrain)

    def _retrain(self, job: tuple[int, int, int]) -> None:
        number, seed, fold = job
        known = retrained_name(number, seed, fold)
        if known in self.study.study.user_attrs:
            return
        values = self.search.suggest(_FixedTrial(self.study.trial(number).params))  # type: ignore[arg-type]  # looks like a trial
        log.info("trial %d again: seed %d, fold %d", number, seed, fold)
        figures = self.evaluate(values, fold, seed, self.folder / "trials" / trial_name(values))
        self.study.study.set_user_attr(known, dict(figures))


class _FixedTrial:
    """A trial with fixed values for ``Search.suggest``."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def _value(self, key: str, *limits: Any, **options: Any) -> Any:
        return self.params[key]

    suggest_float = suggest_int = suggest_categorical = _value


def caused_by_values(error: BaseException) -> bool:
    """Whether an error is due to the values of a trial, not to the machine or the user."""
    if isinstance(error, MssegError):
        codes = (ExitCode.CONFIG, ExitCode.DATA, ExitCode.MODEL, ExitCode.NUMERICAL)
        return error.exit_code in codes
    return isinstance(error, RuntimeError | ValueError | ArithmeticError)


def trial_name(values: Mapping[str, Any]) -> str:
    """Name of a trial's folder; equal for equal values, so that repetitions find checkpoints."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
