"""MLflow runs of trials agree with the store, also of trials whose process died."""

from __future__ import annotations

import pytest

from msseg_lightning.run.sweep.result import export, sweep_result
from msseg_lightning.run.sweep.space import parse
from msseg_lightning.run.sweep.tracking import SweepTracking
from msseg_lightning.run.sweep.worker import Sweep
from msseg_lightning.track.journal import Journal, Position

SEARCH = {
    "trials": 2,
    "folds": [0, 1],
    "seed": 0,
    "sampler": "random",
    "pruner": "none",
    "objective": [{"metric": "dice"}],
    "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
    "retrain": {"best": 1, "seeds": [1]},
}


class Told:
    """A tracker that keeps what it is told, and its journal as a real one does."""

    def __init__(self, name, spool, **more):
        self.name, self.more, self.journal = name, more, Journal(spool)
        self.params, self.metrics, self.tags, self.artifacts, self.status = {}, {}, {}, [], None
        opening = {"do": "open", "uri": "here", "experiment": "e", "artifacts": None, "key": name}
        opening |= {"name": name, "time": 1, "tags": {}, "parent": None}
        self.journal.append([opening])

    def log_params(self, params):
        self.params.update(params)

    def log_metrics(self, metrics, step=0):
        self.metrics.update({(name, step): value for name, value in metrics.items()})

    def set_tags(self, tags):
        self.tags.update(tags)

    def log_artifact(self, path, folder=None):
        self.artifacts.append(path.name)

    def finish(self, status="FINISHED"):
        self.status = status
        self.journal.append([{"do": "close", "status": status, "time": 2}])
        self.journal.confirm(Position("here", "id", self.journal.lines.stat().st_size))


class Tracking:
    uri = "here"

    def __init__(self):
        self.runs = []

    def start(self, experiment, name, *, spool, **more):
        self.runs.append(Told(name, spool, **more))
        return self.runs[-1]


@pytest.fixture
def tracking():
    return Tracking()


def open_sweep(folder, evaluate=lambda values, fold, seed, place: {"dice": 0.5 + fold}):
    return Sweep("toy", folder, parse(SEARCH), evaluate)


def test_a_sweep_is_one_run_with_a_run_per_trial(tmp_path, tracking):
    sweep = open_sweep(tmp_path)
    tracked = SweepTracking(tracking, sweep.study, "toy", "pre_unet")
    with tracked.sweep_run() as tracker:
        sweep.run(tracked.trial)
        sweep.retrain()
        found = sweep_result(sweep.study)
        export(found, tmp_path)
        tracked.log_result(tracker, found)
    whole, *trials = tracking.runs
    assert [run.status for run in tracking.runs] == ["FINISHED"] * 3
    assert whole.metrics == {("sweep/dice", 0): 1.0, ("sweep/expected_dice", 0): 1.0}
    assert {"best.json", "trials.csv", "report.html"} <= set(whole.artifacts)
    assert "Winner" in whole.tags["mlflow.note.content"]
    for number, run in enumerate(trials):
        assert run.more["parent"].folder == tmp_path / "track"
        assert run.more["tags"]["trial"] == number
        assert run.params == sweep.study.trial(number).params
        assert run.metrics["result/dice", 0] == run.metrics["sweep/dice", 0] == 1.0
        assert run.metrics["sweep/goal_after_folds", 1] == 0.5
        assert run.tags["trial_state"] == "complete"


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("diverged"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_trial_that_ends_badly_says_how(tmp_path, tracking, error, status):
    def fail(*arguments):
        raise error

    sweep = open_sweep(tmp_path, fail)
    tracked = SweepTracking(tracking, sweep.study, "toy", "pre_unet")
    with pytest.raises(type(error)), tracked.sweep_run():
        sweep.run(tracked.trial)
    whole, first, *_ = tracking.runs
    assert first.status == status and whole.status == status
    assert first.tags.get("error", "diverged").endswith("diverged")


def test_what_a_killed_process_left_open_is_closed_once(tmp_path, tracking):
    sweep = open_sweep(tmp_path)
    tracked = SweepTracking(tracking, sweep.study, "toy", "pre_unet")
    ended, lost, living = (sweep.study.study.ask() for _ in range(3))
    for trial in (ended, lost, living):
        trial.suggest_float("x", 0.0, 1.0)
        trial.set_user_attr("owner", "elsewhere 1 1")
        trial.set_user_attr("alive", 0.0)
        tracked._start(trial.number)  # and then a kill
    sweep.study.study.tell(ended, 0.5)
    sweep.study.requeue(lost.number)
    tracking.runs.clear()
    tracked.close_dead_trials()
    assert [(run.name, run.status) for run in tracking.runs] == [
        ("toy-trial0", "FINISHED"),
        ("toy-trial1", "KILLED"),
    ]
    tracking.runs.clear()
    tracked.close_dead_trials()
    assert tracking.runs == []
