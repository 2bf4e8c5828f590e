"""A search ends with the wanted number of trials, also after killed processes."""

from __future__ import annotations

import json
import os
import signal
import time

import optuna
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.sweep.result import (
    export,
    status,
    sweep_result,
)
from msseg_lightning.run.sweep.study import SharedStudy
from msseg_lightning.run.sweep.worker import Sweep, trial_name
from tests.run.sweep.toy import Toy, search

STATE = optuna.trial.TrialState


def work(folder, log, trials, pause=0.0):
    Sweep("toy", folder, search(trials), Toy(log, pause)).run()


def ended(sweep):
    return [t for t in sweep.study.trials() if t.state in (STATE.COMPLETE, STATE.PRUNED)]


def test_it_ends_with_the_trials_asked_for_and_knows_the_best(tmp_path):
    sweep = Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"))
    sweep.run()
    assert len(ended(sweep)) == 6
    best = sweep.study.finished()[0]
    assert best.values[0] == pytest.approx(max(t.params["x"] for t in ended(sweep)) + 0.005)
    sweep.run()  # nothing is left to do
    assert len(sweep.study.trials()) == 6


def test_the_same_seed_searches_the_same_places_and_goes_on_after_a_stop(tmp_path):
    whole = Sweep("toy", tmp_path / "a", search(), Toy(tmp_path / "log"))
    whole.run()
    Sweep("toy", tmp_path / "b", search(3), Toy(tmp_path / "log")).run()
    rest = Sweep("toy", tmp_path / "b", search(6), Toy(tmp_path / "log"))
    rest.run()
    assert [t.params for t in rest.study.trials()] == [t.params for t in whole.study.trials()]


def test_a_killed_process_costs_no_trial_and_doubles_none(tmp_path, forking):
    for kill_after in (2, 5):  # runs begun before the process is killed
        log = tmp_path / "log"
        process = forking.Process(target=work, args=(tmp_path / "s", log, 6, 0.15))
        process.start()
        while not log.exists() or len(log.read_text().splitlines()) < kill_after:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    sweep = Sweep("toy", tmp_path / "s", search(), Toy(tmp_path / "log"))
    assert status(sweep.study)["running"] == 1
    sweep.run()
    values = [trial.params["x"] for trial in ended(sweep)]
    assert len(values) == len(set(values)) == 6
    assert all(t.state != STATE.RUNNING for t in sweep.study.trials())
    lost = [t for t in sweep.study.trials() if t.state == STATE.FAIL]
    assert {t.params["x"] for t in lost} <= set(values)  # the same values were tried again


def test_several_processes_on_an_empty_store_share_the_work(tmp_path, forking):
    args = (tmp_path / "s", tmp_path / "log", 16)
    crew = [forking.Process(target=work, args=args) for _ in range(3)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    assert [process.exitcode for process in crew] == [0, 0, 0]
    sweep = Sweep("toy", tmp_path / "s", search(16), Toy(tmp_path / "log"))
    values = [trial.params["x"] for trial in ended(sweep)]
    assert len(values) == len(set(values)) == 16
    runs = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(runs) == 32  # every trial on both folds, once


def test_a_bad_trial_is_pruned_between_folds(tmp_path):
    sweep = Sweep("toy", tmp_path, search(12, pruner="median"), Toy(tmp_path / "log"))
    sweep.run()
    states = [trial.state for trial in sweep.study.trials()]
    assert STATE.PRUNED in states and len(ended(sweep)) == 12
    pruned = [t for t in sweep.study.trials() if t.state == STATE.PRUNED]
    assert all(len(trial.intermediate_values) == 1 for trial in pruned)


def test_an_interrupted_trial_is_queued_again(tmp_path):
    class Stopping(Toy):
        def __call__(self, *args):
            raise KeyboardInterrupt

    sweep = Sweep("toy", tmp_path, search(), Stopping(tmp_path / "log"))
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    first = sweep.study.trial(0).params
    assert [t.state for t in sweep.study.trials()] == [STATE.FAIL, STATE.WAITING]
    again = Sweep("toy", tmp_path, search(1), Toy(tmp_path / "log"))
    again.run()
    assert again.study.finished()[0].params == first


class Failing(Toy):
    """Fails as often as it is told to."""

    def __init__(self, log, times, error):
        super().__init__(log)
        self.times, self.error = times, error

    def __call__(self, *arguments):
        if self.times:
            self.times -= 1
            raise self.error
        return super().__call__(*arguments)


def test_a_candidate_may_fail_but_not_three_in_a_row(tmp_path):
    failing = Failing(tmp_path / "log", 2, RuntimeError("diverged"))
    sweep = Sweep("toy", tmp_path / "a", search(), failing)
    sweep.run()
    assert status(sweep.study) == {"wanted": 6, "failed": 2, "complete": 6}
    assert "diverged" in sweep.study.trial(0).user_attrs["error"]
    sweep = Sweep("toy", tmp_path / "b", search(), Failing(tmp_path / "log", 9, ValueError("all")))
    with pytest.raises(ValueError, match="all"):
        sweep.run()
    assert status(sweep.study) == {"wanted": 6, "failed": 3}


def test_what_is_the_machines_fault_ends_the_process_and_not_the_trial(tmp_path):
    failing = Failing(tmp_path / "log", 1, OSError("disk full"))
    sweep = Sweep("toy", tmp_path, search(), failing)
    with pytest.raises(OSError, match="disk full"):
        sweep.run()
    sweep.run()
    assert status(sweep.study) == {"wanted": 6, "killed": 1, "complete": 6}
    assert sweep.study.trial(1).params == sweep.study.trial(0).params


@pytest.mark.parametrize("processes", [1, 2])
def test_a_grid_is_walked_once(tmp_path, processes):
    space = {
        "x": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
        "y": {"type": "categorical", "choices": ["a", None]},
    }
    grid = search(10, sampler="grid", space=space)
    crew = [Sweep("toy", tmp_path, grid, Toy(tmp_path / "log")) for _ in range(processes)]
    for sweep in crew:
        sweep.run()
    points = [(t.params["x"], t.params["y"]) for t in crew[0].study.trials()]
    assert len(points) == len(set(points)) == 10
    assert status(crew[0].study) == {"wanted": 10, "complete": 10}


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_that_learn_come_closer(tmp_path, sampler):
    sweep = Sweep("toy", tmp_path, search(12, (0,), sampler=sampler), Toy(tmp_path / "log"))
    sweep.run()
    values = [trial.params["x"] for trial in sweep.study.trials()]
    assert max(values) > 0.85 and len(set(values)) == 12


def test_several_goals_give_a_front(tmp_path):
    goals = [{"metric": "score"}, {"metric": "price", "direction": "minimize"}]

    def evaluate(values, fold, seed, folder):
        return {"score": values["x"], "price": values["x"] ** 2 + (values["y"] == "dear")}

    space = {
        "x": {"type": "float", "low": 0.0, "high": 1.0},
        "y": {"type": "categorical", "choices": ["dear", "cheap"]},
    }
    both = search(14, objective=goals, space=space, sampler="nsga2")
    sweep = Sweep("toy", tmp_path, both, evaluate)
    sweep.run()
    sweep.retrain()
    found = sweep_result(sweep.study)
    assert found.front and found.winner is None and len(found.best) > 1
    assert all(trial.params["y"] == "cheap" for trial in found.best)
    export(found, tmp_path)
    assert [plot.name for plot in (tmp_path / "plots").iterdir()] == ["pareto_front.html"]


def test_a_sweep_of_the_same_name_with_another_space_is_refused(tmp_path):
    Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"))
    other = {"x": {"type": "float", "low": 0.0, "high": 2.0}}
    with pytest.raises(MssegError) as caught:
        Sweep("toy", tmp_path, search(space=other), Toy(tmp_path / "log"))
    assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(MssegError):
        Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"), fixed=["other data"])


def test_a_sweep_may_be_looked_at_by_name_alone_while_it_runs(tmp_path):
    with pytest.raises(MssegError) as caught:
        SharedStudy.find("toy", tmp_path / "s")
    assert caught.value.exit_code == ExitCode.CONFIG and not (tmp_path / "s").exists()
    sweep = Sweep("toy", tmp_path / "s", search(), Toy(tmp_path / "log"))
    sweep.study.take()
    seen = SharedStudy.find("toy", tmp_path / "s")
    assert seen.search == sweep.search
    assert status(seen) == {"wanted": 6, "running": 1}
    export(sweep_result(seen), tmp_path / "s")
    assert json.loads((tmp_path / "s" / "best.json").read_text())["winner"] is None


def test_the_best_are_trained_again_and_everything_is_exported(tmp_path):
    class Lucky(Toy):
        """The search's own seed flatters whatever is large."""

        def __call__(self, values, fold, seed, folder):
            figures = super().__call__(values, fold, seed, folder)
            return {"score": figures["score"] - (seed > 0) * (0.5 + 0.2 * values["x"])}

    sweep = Sweep("toy", tmp_path, search(), Lucky(tmp_path / "log"))
    sweep.run()
    sweep.retrain()
    runs = (tmp_path / "log").read_text()
    sweep.retrain()  # all is done
    assert (tmp_path / "log").read_text() == runs
    found = sweep_result(sweep.study)
    assert [one.trial for one, _ in found.retrained] == [t.number for t in found.best[:2]]
    assert {json.loads(line)[2] for line in runs.splitlines()} == {0, 1, 2}
    winner, expected = found.winner
    assert expected < winner.search_score - 0.5
    said = " ".join(found.paragraphs())
    assert f"Winner: trial {winner.trial}" in said and f"Expect {expected:.4f}" in said
    export(found, tmp_path)
    content = json.loads((tmp_path / "best.json").read_text())
    assert len(content["retrained"]) == 2 and content["winner"]["trial"] == winner.trial
    export(sweep_result(SharedStudy.find("toy", tmp_path)), tmp_path)  # from the store alone
    assert json.loads((tmp_path / "best.json").read_text()) == content
    assert (tmp_path / "trials.csv").read_text().count("\n") == 7
    names = {plot.stem for plot in (tmp_path / "plots").iterdir()}
    assert {"optimization_history", "slice", "parallel_coordinate", "param_importances"} >= names
    assert (tmp_path / "plots" / "optimization_history.html").stat().st_size > 1e5


def test_a_trial_is_judged_by_the_mean_of_its_folds(tmp_path):
    """One fold over budget does not sink a trial, and a fold without lesions says nothing."""
    by_fold = {
        0: {"score": 0.2, "false_lesions_per_case_without": 3.0},
        1: {"false_lesions_per_case_without": 0.0},
        2: {"score": 0.6},
    }
    goal = [{"metric": "score", "budget": 2.0}]
    one = search(1, (0, 1, 2), objective=goal, pruner="median")
    sweep = Sweep("toy", tmp_path, one, lambda values, fold, seed, folder: by_fold[fold])
    sweep.run()
    (trial,) = sweep.study.trials()
    assert trial.values == [pytest.approx(0.4)]
    assert trial.intermediate_values == pytest.approx({1: -0.5, 2: 0.2, 3: 0.4})


def test_a_trial_finds_its_folder_again():
    assert trial_name({"a": 1, "b": 0.5}) == trial_name({"b": 0.5, "a": 1})
    assert trial_name({"a": 1}) != trial_name({"a": 2})


THREE = {"x": {"type": "categorical", "choices": [0.1, 0.2, 0.3]}}
SMALL = {
    "x": {"type": "int", "low": 1, "high": 2},
    "y": {"type": "categorical", "choices": ["a", "b"]},
    "z": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1, "when": {"y": "b"}},
}
FEW = {"x": {"type": "int", "low": 1, "high": 8, "log": True}}


def points_tried(log):
    return [json.loads(line)[0] for line in log.read_text().splitlines()]


class Listed:
    """Keeps the values of every run on disk; fails or stops where it is told to."""

    def __init__(self, log, fails=(), stops=0):
        self.log, self.fails, self.stops = log, fails, stops

    def __call__(self, values, fold, seed, folder):
        with self.log.open("a") as stream:
            stream.write(json.dumps([values, fold, seed]) + "\n")
        if self.stops:
            self.stops -= 1
            raise KeyboardInterrupt
        if values["x"] in self.fails:
            raise ValueError("too large")
        return {"score": float(values["x"])}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize(
    ("space", "points"), [(THREE, 3), (SMALL, 2 + 2 * 4), (FEW, 8)], ids=["three", "small", "few"]
)
def test_a_finished_point_is_never_trained_again(tmp_path, caplog, sampler, space, points):
    wanted = search(12, (0,), sampler=sampler, space=space)
    sweep = Sweep("toy", tmp_path, wanted, Listed(tmp_path / "log"))
    sweep.run()
    tried = [json.dumps(values, sort_keys=True) for values in points_tried(tmp_path / "log")]
    assert len(tried) == len(set(tried)) == points
    assert status(sweep.study)["complete"] == points
    assert f"every point of the space was tried: {points} of 12" in caplog.text
    best = [json.dumps(trial.params, sort_keys=True) for trial in sweep.study.finished()]
    assert len(best) == len(set(best)) == points
    assert any("Every point" in said for said in sweep_result(sweep.study).paragraphs())
    sweep.run()
    assert len(points_tried(tmp_path / "log")) == points


def test_a_failing_point_of_a_grid_is_tried_once_and_listed(tmp_path):
    space = {"x": {"type": "int", "low": 1, "high": 4}}
    grid = search(4, (0,), sampler="grid", space=space)
    sweep = Sweep("toy", tmp_path, grid, Listed(tmp_path / "log", fails=(3,)))
    sweep.run()
    sweep.run()
    assert sorted(values["x"] for values in points_tried(tmp_path / "log")) == [1, 2, 3, 4]
    counts = status(sweep.study)
    assert (counts["complete"], counts["failed"]) == (3, 1) and "running" not in counts
    export(sweep_result(sweep.study), tmp_path)
    content = json.loads((tmp_path / "best.json").read_text())
    assert [one["parameters"] for one in content["failed"]] == [{"x": 3}]
    assert any("1 point failed" in said and "x=3" in said for said in content["answer"])


def test_a_stopped_point_is_tried_again_and_no_other_twice(tmp_path):
    wanted = search(9, (0,), sampler="tpe", space=THREE)
    with pytest.raises(KeyboardInterrupt):
        Sweep("toy", tmp_path, wanted, Listed(tmp_path / "log", stops=1)).run()
    Sweep("toy", tmp_path, wanted, Listed(tmp_path / "log", fails=(0.2,))).run()
    first, *rest = [values["x"] for values in points_tried(tmp_path / "log")]
    assert rest[0] == first and sorted(rest) == [0.1, 0.2, 0.3]


def work_on_few(folder, log):
    time.sleep(0.1)
    space = {**FEW, "y": {"type": "categorical", "choices": ["a", "b"]}}
    Sweep("toy", folder, search(40, (0,), sampler="tpe", space=space), Listed(log, (5,))).run()


def test_two_workers_share_a_small_space_without_a_duplicate(tmp_path, forking):
    log = tmp_path / "log"
    crew = [forking.Process(target=work_on_few, args=(tmp_path / "s", log)) for _ in range(2)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    assert [process.exitcode for process in crew] == [0, 0]
    tried = [json.dumps(values, sort_keys=True) for values in points_tried(log)]
    assert len(tried) == len(set(tried)) == 16
    counts = status(SharedStudy.find("toy", tmp_path / "s"))
    assert counts["complete"] == 14 and counts["failed"] == 2
    assert "waiting" not in counts and "running" not in counts


def test_of_two_machines_that_worked_on_one_point_one_counts(tmp_path):
    study = Sweep("toy", tmp_path, search(3, space=THREE), Listed(tmp_path / "log")).study
    first, second = study.study.ask(), study.study.ask()  # machines that share no lock
    for trial in (first, second):
        trial.suggest_categorical("x", [0.1])
        study.end(trial, [0.1])
    assert status(study) == {"wanted": 3, "complete": 1, "duplicate": 1}


def test_duplicates_of_an_older_store_stand_once_among_the_best(tmp_path):
    study = Sweep("toy", tmp_path, search(3, space=THREE), Listed(tmp_path / "log")).study
    for value in (0.1, 0.3, 0.3, 0.3):
        study.study.enqueue_trial({"x": value})
        trial = study.study.ask()
        trial.suggest_categorical("x", [0.1, 0.2, 0.3])
        study.study.tell(trial, value)
    assert [trial.params["x"] for trial in study.finished()] == [0.3, 0.1]
    assert len(study.counted()) == 2 and not study.done()
