"""Machines that share nothing but a database work on one study; addresses are read as meant."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from benchmarks.scale import postgres
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.sweep.result import status
from msseg_lightning.run.sweep.space import parse
from msseg_lightning.run.sweep.storage import refuse_damaged, shown_store, store_url
from msseg_lightning.run.sweep.study import SharedStudy
from msseg_lightning.run.sweep.worker import Sweep

SEARCH = {
    "trials": 12,
    "folds": [0],
    "seed": 0,
    "sampler": "tpe",
    "pruner": "none",
    "objective": [{"metric": "score", "direction": "maximize"}],
    "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
    "retrain": {"best": 1, "seeds": [1]},
}


@pytest.fixture(scope="module")
def database():
    if reason := postgres.absent():
        pytest.skip(reason)
    with postgres.cluster() as address:
        yield address


def machine(folder, address, pause):
    def toy(values, fold, seed, place):
        time.sleep(pause)
        return {"score": values["x"]}

    sweep = Sweep("toy", folder, parse(SEARCH), toy, address)
    sweep.run()
    sweep.retrain()


def test_machines_share_a_study_on_postgresql_and_one_is_killed(database, tmp_path, forking):
    crew = [
        forking.Process(target=machine, args=(tmp_path / f"machine{n}", database, 60.0 * (n == 2)))
        for n in range(3)
    ]
    for process in crew:
        process.start()
    doomed = crew[2]

    def begun():
        try:
            trials = SharedStudy.find("toy", tmp_path / "look", database).trials()
        except Exception:  # the study is not there yet
            return []
        return [t for t in trials if str(doomed.pid) in t.user_attrs.get("owner", "") and t.params]

    while not (lost := begun()):
        time.sleep(0.2)
    os.kill(doomed.pid, signal.SIGKILL)
    for process in crew:
        process.join(120)
    assert [process.exitcode for process in crew] == [0, 0, -signal.SIGKILL]
    study = SharedStudy.find("toy", tmp_path / "look", database)
    ended = [trial for trial in study.trials() if trial.state.name == "COMPLETE"]
    assert len(ended) == len({json.dumps(trial.params) for trial in ended}) == 12
    assert lost[0].params in [trial.params for trial in ended]
    counts = status(study)
    assert counts["killed"] == 1 and "running" not in counts and "waiting" not in counts


def test_addresses(tmp_path):
    plain = "postgresql://me:secret@host/base"
    assert store_url(plain, tmp_path) == "postgresql+psycopg://me:secret@host/base"
    assert store_url("postgresql+psycopg2://host/base", tmp_path).startswith("postgresql+psycopg2:")
    assert store_url(None, tmp_path) == f"sqlite:///{tmp_path.resolve()}/study.db"
    assert "secret" not in shown_store(plain) and "host" in shown_store(plain)


@pytest.mark.parametrize("bad", ["empty", "text", "half", "broken"])
def test_a_file_that_holds_no_trials_is_named_before_optuna_opens_it(tmp_path, bad):
    file = tmp_path / "study.db"
    SharedStudy.begin("s", tmp_path, parse(SEARCH), [])
    whole = file.read_bytes()
    content = {
        "empty": b"",
        "text": b"trials of a search\n" * 500,
        "half": whole[: len(whole) // 2],
        "broken": whole[:4096] + bytes(len(whole) - 8192) + whole[-4096:],
    }[bad]
    file.write_bytes(content)
    started = time.monotonic()
    for action in (
        lambda: SharedStudy.find("s", tmp_path),
        lambda: SharedStudy.begin("s", tmp_path, parse(SEARCH), []),
    ):
        with pytest.raises(MssegError) as caught:
            action()
        (problem,) = caught.value.problems
        assert (problem.code, problem.file) == ("sweep.store_damaged", file)
        assert problem.exit_code == ExitCode.STORE
    assert file.read_bytes() == content and time.monotonic() - started < 30
    file.unlink()
    refuse_damaged(file)  # none yet
    file.write_bytes(whole)
    assert SharedStudy.find("s", tmp_path).search.trials == SEARCH["trials"]
