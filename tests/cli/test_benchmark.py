"""The command line of a benchmark: run, continue, look, export."""

from __future__ import annotations

import json

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.benchmark import worker
from tests.run.benchmark.conftest import composed_once  # noqa: F401  (a fixture)
from tests.run.benchmark.toy import WORDS, refuse, simulate


@pytest.fixture
def trained(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return simulate(monkeypatch, refuse)


def test_a_benchmark_from_its_first_line_to_its_tables(trained, tmp_path, capsys):
    systems = "systems=[oversampled_unet,ohem_unet,bsi_subtraction]"
    assert main(["benchmark", "toy", systems, *WORDS, "budget.steps=9"]) == ExitCode.PARTIAL
    out = capsys.readouterr().out
    assert "can be told apart" in out and "failed   ohem_unet-fold0-seed0" in out
    assert "leaderboards/toy/leaderboard.html" in out and len(trained) == 3
    folder = tmp_path / "leaderboards" / "toy"
    assert json.loads((folder / "benchmark.json").read_text())["budget"] == {"steps": 9}

    assert main(["benchmark", "--status"]) == ExitCode.OK
    assert capsys.readouterr().out == "toy: 3 runs: 2 finished, 0 running, 1 failed, 0 waiting\n"
    assert main(["benchmark", "toy", "--status"]) == ExitCode.OK
    assert "cannot be trained here" in capsys.readouterr().out

    (folder / "leaderboard.csv").unlink()
    assert main(["benchmark", "toy", "--export"]) == ExitCode.OK
    assert "leaderboard.csv" in capsys.readouterr().out and len(trained) == 3
    assert (folder / "leaderboard.csv").is_file()
    assert main(["compare", "toy"]) == ExitCode.OK
    assert "oversampled_unet" in capsys.readouterr().out

    assert main(["benchmark", "toy"]) == ExitCode.PARTIAL
    assert trained[3:] == ["ohem_unet-fold0-seed0"]


def test_a_real_run_has_its_costs_in_its_record(coarse_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "run_apart", lambda words, file, deadline: int(main(list(words))))
    words = ["systems=[oversampled_unet]", "size=tiny", f"read.root={coarse_cohort}"]
    words += [
        "split=file",
        f"split.path={coarse_cohort / 'split.json'}",
        "data.workers=1",
        "track=off",
    ]
    assert main(["benchmark", "real", *words, "budget.minutes=0.002"]) == ExitCode.OK
    (run,) = (tmp_path / "leaderboards" / "real" / "runs").glob("*/*")
    record = json.loads((run / "run.json").read_text())
    assert record["fit_cpu_minutes"] > 0 and record["parameters"] > 1000
    assert record["device"] == "cpu" and record["peak_mib"] > 100
    assert "bit for bit" in record["repeatable"]
    assert json.loads((run / "fit" / "done.json").read_text())["minutes"] >= 0.002
    assert "oversampled_unet" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["read.root=x"], []])
def test_a_benchmark_needs_a_name(words, capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", *words])
    assert "name the benchmark" in capsys.readouterr().err


def test_a_run_that_it_does_not_have_is_refused(trained, capsys):
    assert main(["benchmark", "toy", "systems=[ohem_unet]", *WORDS]) == ExitCode.PARTIAL
    assert main(["benchmark", "toy", "--one", "ohem_unet-fold7-seed0"]) == ExitCode.CONFIG
    assert "ohem_unet-fold0-seed0" in capsys.readouterr().err
