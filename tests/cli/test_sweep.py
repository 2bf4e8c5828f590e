"""A search is looked at without being joined."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.sweep import command
from msseg_lightning.run.sweep import result as results


@pytest.fixture
def study(monkeypatch, tmp_path):
    """A search of two trials that was begun; joining it is an error."""

    def join(words):
        raise AssertionError(words)

    search = SimpleNamespace(objective=[SimpleNamespace(metric="dice")])
    found = SimpleNamespace(folder=tmp_path, search=search)
    trials = [SimpleNamespace(number=n, values=[n * 0.123456], params={"x": n}) for n in (1, 0)]
    monkeypatch.setattr(command, "find_study", lambda words: found)
    monkeypatch.setattr(command, "open_sweep", join)
    monkeypatch.setattr(results, "status", lambda study: {"wanted": 2, "complete": 2})
    monkeypatch.setattr(results, "sweep_result", lambda study: SimpleNamespace(best=trials))
    return found


def test_trials_are_counted_and_the_best_are_named(study, capsys):
    assert main(["sweep", "pre_unet", "--status"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"wanted": 2, "complete": 2}
    assert main(["sweep", "pre_unet", "--best"]) == ExitCode.OK
    assert capsys.readouterr().out == "trial 1  dice 0.1235  x=1\ntrial 0  dice 0  x=0\n"


def test_all_searches_are_listed_without_a_name(study, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--status"]) == ExitCode.OK
    assert "no sweeps in sweeps" in capsys.readouterr().out
    for name in ("lr", "size"):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "study.db").touch()
    monkeypatch.setattr(command.SharedStudy, "find", lambda *where: where)
    counts = {"wanted": 9, "complete": 2, "pruned": 1}
    monkeypatch.setattr(command, "status", lambda study: dict(counts))
    assert main(["sweep", "--status"]) == ExitCode.OK
    line = "2 of 9 trials complete, 1 pruned"
    assert capsys.readouterr().out == f"lr  {line}\nsize  {line}\n"
    assert main(["sweep", "--status", "paths.sweeps=sweeps"]) == ExitCode.OK
    assert "size" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "--best"])


def test_tables_are_written_on_demand(study, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(command, "write_result", written.append)
    assert main(["sweep", "pre_unet", "--export"]) == ExitCode.OK
    assert written == [study] and capsys.readouterr().out == f"{study.folder}\n"
