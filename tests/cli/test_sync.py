import pytest

from msseg_lightning.cli import sync
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track import recovery
from msseg_lightning.track.journal import Journal
from msseg_lightning.track.recovery import Replayed


def test_it_says_what_it_did(tmp_path, monkeypatch, capsys):
    results = [
        Replayed(tmp_path / "a", "http://host", {"open": 1, "points": 40, "text": 2}),
        Replayed(tmp_path / "b", "http://host", {}),
        Replayed(tmp_path / "c", "http://host", {}, busy=True),
        Replayed(tmp_path / "d", "http://host", {}, state_updated=True),
    ]
    monkeypatch.setattr(recovery, "replay", lambda *arguments, **more: iter(results))
    monkeypatch.chdir(tmp_path)
    assert sync.main(["--uri", "http://me:secret@host"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        "a: 40 metric points, 2 texts, 1 other records -> http://me@host",
        "d: its state -> http://me@host",
        "2 sent, 1 had been, 1 in progress",
    ]


def test_only_the_store_of_the_settings_or_of_the_command_is_written_to(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    record = {"do": "open", "uri": "sqlite:////not/mine.db", "experiment": "e", "artifacts": None}
    record |= {"key": "k", "name": "run", "time": 1000, "tags": {}, "parent": None}
    for name in ("a b", "c"):
        Journal(tmp_path / "runs" / name / "track").append([record])
    with pytest.raises(MssegError) as caught:
        sync.main([])
    (problem,) = caught.value.problems
    here = f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}"
    assert problem.exit_code is ExitCode.CONFIG and problem.expected == here
    assert f"`msseg sync --uri {here} runs`" in problem.remedy
    assert "`msseg sync --uri sqlite:////not/mine.db runs`" in problem.remedy
    assert "0 sent, 0 had been" in capsys.readouterr().out and not (tmp_path / "mlruns").exists()


def test_where_files_go():
    assert sync.target("http://host", None)[0] == "http://host"
    assert sync.target("sqlite:////data/mlflow.db", None) == ("sqlite:////data/mlflow.db", None)
    assert sync.target("sqlite:////data/mlflow.db", "s3://b")[1] == "s3://b"


def test_a_folder_that_is_not_there_and_a_store_that_cannot_be(tmp_path):
    for words in (["nowhere"], ["--uri", "ftp://host", str(tmp_path)]):
        with pytest.raises(MssegError) as caught:
            sync.main(words)
        assert caught.value.exit_code is ExitCode.CONFIG
