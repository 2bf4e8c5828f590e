import pytest

from msseg_lightning.cli import sync
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track import recovery
from msseg_lightning.track.recovery import Replayed


def test_it_says_what_it_did(tmp_path, monkeypatch, capsys):
    results = [
        Replayed(tmp_path / "a", "http://me:secret@host", {"open": 1, "points": 40, "text": 2}),
        Replayed(tmp_path / "b", "http://host", {}),
        Replayed(tmp_path / "c", "http://host", {}, busy=True),
    ]
    monkeypatch.setattr(recovery, "replay", lambda journals, uri: iter(results))
    monkeypatch.chdir(tmp_path)
    assert sync.main([]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        "a: 40 metric points, 2 texts, 1 other notes -> http://me@host",
        "1 sent, 1 had been, 1 in progress",
    ]


def test_a_folder_that_is_not_there_and_a_store_that_cannot_be(tmp_path):
    for words in (["nowhere"], ["--uri", "ftp://host", str(tmp_path)]):
        with pytest.raises(MssegError) as caught:
            sync.main(words)
        assert caught.value.exit_code is ExitCode.CONFIG
