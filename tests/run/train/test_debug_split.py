"""Short trainings by the command: what they leave, and what they say."""

from __future__ import annotations

import json

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import write_record
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config import debug
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.train.debug_split import overfit_verdict
from tests.conftest import tiny_words


@pytest.fixture
def words(coarse_cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coarse = "preprocess.steps.resample.spacing_mm=6.0"
    return ["train", "pre_unet", *tiny_words(coarse_cohort), coarse]


def test_fast_runs_everything_once_with_the_loggers_and_callbacks_of_the_user(words, tmp_path):
    more = [
        "loggers=[csv]",
        "callbacks=[{_target_: lightning.pytorch.callbacks.LearningRateMonitor}]",
    ]
    assert main([*words, "debug=fast", *more]) == ExitCode.OK
    (run,) = (tmp_path / "runs" / "debug" / "pre_unet").iterdir()
    split = json.loads((run / "split.json").read_text())
    assert (len(split["train"]), len(split["test"])) == (2, 1)
    assert json.loads((run / "fit" / "done.json").read_text())["step"] == 2
    (table,) = (run / "fit" / "logs").rglob("metrics.csv")
    assert "lr-AdamW" in table.read_text().splitlines()[0]
    assert (run / "report.html").is_file() and not (tmp_path / "mlruns").exists()


def test_overfit_trains_validates_and_tests_with_one_pair(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(debug, "OVERFIT_INTERVAL", 2)
    assert main([*words, "debug=overfit"]) == ExitCode.NUMERICAL
    said = capsys.readouterr()
    assert "debug.not_learned" in said.err and "in 4 steps" in said.err
    (run,) = (tmp_path / "runs" / "debug" / "pre_unet").iterdir()
    split = json.loads((run / "split.json").read_text())
    assert split["train"] == split["val"] == split["test"] == ["002"]
    folder = RunFolder(run)
    write_record(folder.fit / "done.json", {"step": 350, "best_step": 350, "best_score": 0.93})
    assert overfit_verdict(folder).startswith("learned: Dice 0.930")
    write_record(folder.fit / "done.json", {"step": 350, "best_step": 350, "best_score": 0.89})
    with pytest.raises(MssegError, match=r"0\.890; expected 0\.9"):
        overfit_verdict(folder)


def test_a_short_training_is_one_run(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*words, "debug=fast", "fold=all"])
    assert "one fold and one seed" in capsys.readouterr().err
