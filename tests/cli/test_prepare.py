"""The command says what was prepared and what was refused."""

from __future__ import annotations

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject_map import MapResult
from msseg_lightning.run.config import compose
from msseg_lightning.run.data import prepare
from msseg_lightning.run.shard import Shard


def test_what_was_refused_is_named_and_ends_with_9(monkeypatch, capsys, caplog):
    asked = []
    results = [
        MapResult({"001": None}, {"002": MssegError(Problem("image.cut", "it is cut short"))}),
        MapResult({"001": None, "002": None}, {}),
    ]

    def prepared(config, shard):
        asked.append(shard)
        return results.pop(0)

    composed = {"paths": {"cache": "kept"}}
    monkeypatch.setattr(compose, "compose_config", lambda words, name: composed)
    monkeypatch.setattr(prepare, "prepare_data_set", prepared)
    assert main(["prepare", "pre_unet", "--shard", "2/3"]) == ExitCode.PARTIAL
    said = capsys.readouterr()
    assert said.out == "1 of 2 pairs prepared in kept\n"
    assert "left out: 002" in said.err and "cut short" in caplog.text
    assert main(["prepare", "pre_unet"]) == ExitCode.OK
    assert capsys.readouterr().out == "2 of 2 pairs prepared in kept\n"
    assert asked == [Shard.parse("2/3"), None]
