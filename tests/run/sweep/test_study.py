"""Processes share a study: whoever dies or sleeps costs no trial and doubles none."""

from __future__ import annotations

import time

import optuna

from msseg_lightning.run.sweep.result import status
from msseg_lightning.run.sweep.study import abandoned
from msseg_lightning.run.sweep.worker import Sweep
from tests.run.sweep.toy import Toy, search

STATE = optuna.trial.TrialState


def test_what_kills_every_process_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("msseg_lightning.run.sweep.study.MAX_RETRIES", 2)
    study = Sweep("toy", tmp_path, search(), Toy(tmp_path / "log")).study
    first = study.take()
    x = first.suggest_float("x", 0.0, 1.0)
    study.requeue(first.number)
    for _ in range(2):
        again = study.take()
        assert again.suggest_float("x", 0.0, 1.0) == x
        study.requeue(again.number)
    assert [t.state for t in study.trials()] == [STATE.FAIL] * 3


def test_giving_back_may_be_repeated_and_only_the_first_repetition_counts(tmp_path):
    study = Sweep("toy", tmp_path, search(), Toy(tmp_path / "log")).study
    first = study.take()
    x = first.suggest_float("x", 0.0, 1.0)
    study.requeue(first.number)
    study.requeue(first.number)  # as by a process killed between its two writes
    assert [t.state for t in study.trials()] == [STATE.FAIL, STATE.WAITING]
    study.study.enqueue_trial({"x": x}, user_attrs={"retry_of": 0})  # a machine without our lock
    assert study.take().number == 1
    assert study.take() is None  # the second repetition
    assert status(study)["surplus"] == 1


def test_of_two_machines_that_end_the_last_trial_at_once_one_counts(tmp_path):
    study = Sweep("toy", tmp_path, search(1), Toy(tmp_path / "log")).study
    first = study.take()
    second = study.study.ask()  # a machine that shares no lock
    study.end(second, [0.5])
    assert study.trial(1).state == STATE.FAIL  # the first began before it and still works
    study.end(first, [0.4])
    assert status(study) == {"wanted": 1, "complete": 1, "surplus": 1}


def test_a_trial_that_others_gave_up_ends_without_an_error(tmp_path):
    study = Sweep("toy", tmp_path, search(1), Toy(tmp_path / "log")).study
    trial = study.take()
    trial.suggest_float("x", 0.0, 1.0)
    study.requeue(trial.number)  # this machine slept too long
    study.end(trial, [0.5])
    study.fail(trial, error="late")
    assert study.trial(0).state == STATE.FAIL


def test_a_machine_of_which_nothing_is_heard_has_lost_its_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("msseg_lightning.run.sweep.study.HEARTBEAT_S", 0.01)
    study = Sweep("toy", tmp_path, search(1), Toy(tmp_path / "log")).study
    trial = study.take()
    trial.suggest_float("x", 0.0, 1.0)
    trial.set_user_attr("owner", "elsewhere 1 1")
    trial.set_user_attr("alive", time.time() - 1000)
    with study.heartbeat(trial):
        while abandoned(study.trial(0)):
            time.sleep(0.01)
    assert study.requeue_abandoned() == []
    trial.set_user_attr("alive", time.time() - 1000)
    assert study.requeue_abandoned() == [0]
    assert [t.state for t in study.trials()] == [STATE.FAIL, STATE.WAITING]
