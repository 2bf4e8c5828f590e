"""A search ends with the number of trials asked for, whoever dies on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import optuna
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.search import parse
from msseg_lightning.run.sweep import Retrained, Sweep, expected_scores, trial_name

STATE = optuna.trial.TrialState


def search(trials=6, folds=(0, 1), pruner="none", **changes):
    return parse(
        {
            "trials": trials,
            "folds": list(folds),
            "seed": 0,
            "sampler": "random",
            "pruner": pruner,
            "objective": [{"metric": "score", "direction": "maximize"}],
            "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
            "retrain": {"best": 2, "seeds": [1, 2]},
            **changes,
        }
    )


class Toy:
    """Scores a value; keeps a line per call on disk."""

    def __init__(self, log, pause=0.0):
        self.log, self.pause = log, pause

    def __call__(self, values, fold, seed, folder):
        time.sleep(self.pause)
        with self.log.open("a") as stream:
            stream.write(json.dumps([values["x"], fold, seed]) + "\n")
        return {"score": values["x"] + 0.01 * fold}


def work(folder, log, trials, pause=0.0):
    Sweep("toy", folder, search(trials), Toy(log, pause)).run()


def ended(sweep):
    return [t for t in sweep.study.trials if t.state in (STATE.COMPLETE, STATE.PRUNED)]


def test_it_ends_with_the_trials_asked_for_and_knows_the_best(tmp_path):
    sweep = Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"))
    sweep.run()
    assert len(ended(sweep)) == 6
    best = sweep.finished()[0]
    assert best.values[0] == pytest.approx(max(t.params["x"] for t in ended(sweep)) + 0.005)
    sweep.run()  # nothing is left to do
    assert len(sweep.study.trials) == 6


def test_the_same_seed_searches_the_same_places_and_goes_on_after_a_stop(tmp_path):
    whole = Sweep("toy", tmp_path / "a", search(), Toy(tmp_path / "log"))
    whole.run()
    Sweep("toy", tmp_path / "b", search(3), Toy(tmp_path / "log")).run()
    rest = Sweep("toy", tmp_path / "b", search(6), Toy(tmp_path / "log"))
    rest.run()
    assert [t.params for t in rest.study.trials] == [t.params for t in whole.study.trials]


def test_a_killed_process_costs_no_trial_and_doubles_none(tmp_path):
    context = multiprocessing.get_context("spawn")
    for kill_after in (2, 5):  # runs begun before the process is killed
        log = tmp_path / "log"
        process = context.Process(target=work, args=(tmp_path / "s", log, 6, 0.15))
        process.start()
        while not log.exists() or len(log.read_text().splitlines()) < kill_after:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    sweep = Sweep("toy", tmp_path / "s", search(), Toy(tmp_path / "log"))
    assert sweep.status()["running"] == 1
    sweep.run()
    values = [trial.params["x"] for trial in ended(sweep)]
    assert len(values) == len(set(values)) == 6
    assert all(t.state != STATE.RUNNING for t in sweep.study.trials)
    lost = [t for t in sweep.study.trials if t.state == STATE.FAIL]
    assert {t.params["x"] for t in lost} <= set(values)  # the same values were tried again


def test_several_processes_on_an_empty_store_share_the_work(tmp_path):
    context = multiprocessing.get_context("spawn")
    args = (tmp_path / "s", tmp_path / "log", 30)
    crew = [context.Process(target=work, args=args) for _ in range(3)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    assert [process.exitcode for process in crew] == [0, 0, 0]
    sweep = Sweep("toy", tmp_path / "s", search(30), Toy(tmp_path / "log"))
    values = [trial.params["x"] for trial in ended(sweep)]
    assert len(values) == len(set(values)) == 30
    runs = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(runs) == 60  # every trial on both folds, once


def test_a_bad_trial_is_pruned_between_folds(tmp_path):
    sweep = Sweep("toy", tmp_path, search(12, pruner="median"), Toy(tmp_path / "log"))
    sweep.run()
    states = [trial.state for trial in sweep.study.trials]
    assert STATE.PRUNED in states and len(ended(sweep)) == 12
    pruned = [t for t in sweep.study.trials if t.state == STATE.PRUNED]
    assert all(len(trial.intermediate_values) == 1 for trial in pruned)


def test_an_interrupted_trial_is_queued_again(tmp_path):
    class Stopping(Toy):
        def __call__(self, *args):
            raise KeyboardInterrupt

    sweep = Sweep("toy", tmp_path, search(), Stopping(tmp_path / "log"))
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    first = sweep.study.trials[0].params
    assert [t.state for t in sweep.study.trials] == [STATE.FAIL, STATE.WAITING]
    again = Sweep("toy", tmp_path, search(1), Toy(tmp_path / "log"))
    again.run()
    assert again.finished()[0].params == first


def test_what_kills_every_process_is_given_up(tmp_path):
    sweep = Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"))
    sweep._queue_again(0, {"x": 0.5}, {"times_lost": 5})
    assert sweep.study.trials == []


def test_a_sweep_of_the_same_name_with_another_space_is_refused(tmp_path):
    Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"))
    other = {"x": {"type": "float", "low": 0.0, "high": 2.0}}
    with pytest.raises(MssegError) as caught:
        Sweep("toy", tmp_path, search(space=other), Toy(tmp_path / "log"))
    assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(MssegError):
        Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"), fingerprint=["other data"])


def test_the_best_are_trained_again_and_everything_is_exported(tmp_path):
    sweep = Sweep("toy", tmp_path, search(), Toy(tmp_path / "log"))
    sweep.run()
    retrained = sweep.retrain()
    assert [one.trial for one in retrained] == [t.number for t in sweep.finished()[:2]]
    seeds = {json.loads(line)[2] for line in (tmp_path / "log").read_text().splitlines()}
    assert seeds == {0, 1, 2}
    sweep.export(retrained)
    content = json.loads((tmp_path / "best.json").read_text())
    assert len(content["retrained"]) == 2 and "luckiest" in content["warning"]
    assert (tmp_path / "trials.csv").read_text().count("\n") == 7
    assert (tmp_path / "plots" / "optimization_history.html").stat().st_size > 1e5


def test_expected_scores_by_hand():
    first = Retrained(0, {}, 0.9, (0.5, 0.7))  # mean 0.6, variance of the mean 0.01
    second = Retrained(1, {}, 0.8, (0.1, 0.3))  # mean 0.2, the same
    # between: 0.08 - 0.01 = 0.07; share 0.07 / 0.08 = 0.875; centre 0.4
    assert expected_scores([first, second]) == pytest.approx([0.575, 0.225])
    equal = [Retrained(0, {}, 0.9, (0.5, 0.7)), Retrained(1, {}, 0.8, (0.7, 0.5))]
    assert expected_scores(equal) == pytest.approx([0.6, 0.6])
    assert expected_scores([Retrained(0, {}, 0.9, (0.5,)), second]) == pytest.approx([0.35, 0.35])
    assert expected_scores([]) == []


def test_a_trial_finds_its_folder_again():
    assert trial_name({"a": 1, "b": 0.5}) == trial_name({"b": 0.5, "a": 1})
    assert trial_name({"a": 1}) != trial_name({"a": 2})
