"""Tracking of a sweep in MLflow: one run of the sweep with a child run for every trial.

The store of the trials is authoritative. The run of a trial is opened with the trial and closed
after the store has its end; runs that a killed process left open are closed by another process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.run.sweep.result import SweepResult
from msseg_lightning.run.sweep.space import mean_figures
from msseg_lightning.run.sweep.study import SharedStudy, abandoned
from msseg_lightning.run.train.mlflow_run import end_status
from msseg_lightning.track.store import SWEEPS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class SweepTracking:
    """Records a sweep in MLflow.

    Args:
        tracking: tracking settings.
        study: the study.
        name: name of the sweep.
        experiment: name of the experiment.
    """

    def __init__(self, tracking: Any, study: SharedStudy, name: str, experiment: str) -> None:
        self.tracking, self.study, self.name = tracking, study, name
        self.tags = {"system": experiment, "sweep": name}
        self.folder = study.folder / "track"

    @contextlib.contextmanager
    def sweep_run(self) -> Iterator[Any]:
        """Open the run of the sweep, which all processes share; yields its tracker."""
        from msseg_lightning.track.journal import run_key
        from msseg_lightning.track.process import process_tags

        process = process_tags()  # processes of several machines may have the same number
        tracker = self.tracking.start(
            SWEEPS,
            f"sweep-{self.name}",
            spool=self.folder / f"process-{process['process.machine']}-{process['process.pid']}",
            key=run_key(self.folder),
            tags={**self.tags, "level": "sweep"},
        )
        try:
            self.close_dead_trials()
            yield tracker
            self.close_dead_trials()
        except BaseException as error:
            tracker.finish(end_status(error))
            raise
        tracker.finish("FINISHED")

    @contextlib.contextmanager
    def trial(self, number: int) -> Iterator[None]:
        """Open the run of a trial while this process works on it."""
        tracker = self._start(number)
        try:
            yield
        finally:
            self._close(tracker, self.study.trial(number))

    def close_dead_trials(self) -> None:
        """Close the runs of trials whose process died before it closed them."""
        from filelock import FileLock

        from msseg_lightning.track.journal import Journal

        with FileLock(self.folder / "update_state.lock"):
            for trial in self.study.trials():
                spool = self._spool(trial.number)
                if not trial.state.is_finished() or not spool.is_dir() or not abandoned(trial):
                    continue
                journal = Journal(spool)
                if not (journal.closed and journal.complete(self.tracking.uri)):
                    self._close(self._start(trial.number), trial)

    def log_result(self, tracker: Any, found: SweepResult) -> None:
        """Log expected score, summary text, table, plots and report."""
        folder = self.study.folder
        for file in ("trials.csv", "best.json", "report.html"):
            tracker.log_artifact(folder / file, "sweep")
        for plot in sorted((folder / "plots").glob("*.html")):
            tracker.log_artifact(plot, "plots")
        tracker.set_tags({"mlflow.note.content": "\n\n".join(found.paragraphs())})
        if found.winner is not None:
            one, expected = found.winner
            goal = self.study.search.objective[0].metric
            tracker.log_metrics(
                {f"sweep/{goal}": one.search_score, f"sweep/expected_{goal}": expected}
            )

    def _spool(self, number: int) -> Path:
        return self.folder / f"trial{number}"

    def _start(self, number: int) -> Any:
        from msseg_lightning.track.tracker import Parent

        trial = self.study.trial(number)
        known = trial.user_attrs
        retry = {"retry_of": known["retry_of"]} if "retry_of" in known else {}
        return self.tracking.start(
            SWEEPS,
            f"{self.name}-trial{number}",
            spool=self._spool(number),
            parent=Parent(self.folder, f"sweep-{self.name}", {**self.tags, "level": "sweep"}),
            tags={**self.tags, **retry, "level": "trial", "trial": number},
            params=trial.params,
        )

    def _close(self, tracker: Any, trial: FrozenTrial) -> None:
        """Log the data of a finished trial from the store and close its run."""
        search, known = self.study.search, trial.user_attrs
        figures = [known[f"fold{fold}"] for fold in search.folds if f"fold{fold}" in known]
        tracker.log_params(trial.params)
        tracker.log_metrics({f"result/{name}": v for name, v in mean_figures(figures).items()})
        for step, value in sorted(trial.intermediate_values.items()):
            tracker.log_metrics({"sweep/goal_after_folds": value}, step)
        for goal, value in zip(search.objective, trial.values or (), strict=False):
            tracker.log_metrics({f"sweep/{goal.metric}": value})
        tracker.set_tags({"trial_state": trial.state.name.lower()})
        if "error" in known:
            tracker.set_tags({"error": known["error"]})
        if trial.state.name in ("COMPLETE", "PRUNED"):
            tracker.finish("FINISHED")
        else:
            tracker.finish("FAILED" if "error" in known else "KILLED")
