import json

import pytest

from msseg_lightning.cli.report import main, run_path
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.report.page import document


def test_a_run_is_named_by_folder_or_by_id(tmp_path):
    folder = tmp_path / "runs" / "pre_unet" / "msseg2-fold0-seed0"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"mlflow_run_id": "abc"}))
    assert run_path(str(folder), tmp_path / "runs") == folder
    assert run_path("abc", tmp_path / "runs") == folder
    assert str(run_path("other", tmp_path / "runs")) == "other"
    assert str(run_path("other", tmp_path / "nowhere")) == "other"


def test_the_folder_of_all_folds_has_its_own_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "out_of_fold.json").write_text("{}")
    page = tmp_path / "report.html"
    monkeypatch.setattr(
        "msseg_lightning.compare.multirun_report.build_multirun_report",
        lambda folders: page if folders == [tmp_path] else None,
    )
    assert main([str(tmp_path)]) == ExitCode.OK
    assert capsys.readouterr().out == f"{page}\n"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(MssegError) as caught:
        main([str(tmp_path)])
    assert caught.value.exit_code is ExitCode.MODEL


def test_a_report_overwrites_reports_only(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("{}")
    built = []
    monkeypatch.setattr(
        "msseg_lightning.run.train.run_report.build_report",
        lambda _, output: built.append(output.write_text(document("a", []))) or output,
    )
    for _ in range(2):
        assert main([str(tmp_path), "--output", str(tmp_path / "a.html")]) == ExitCode.OK
    (tmp_path / "own.html").write_text("<!doctype html>")
    with pytest.raises(MssegError, match="did not write"):
        main([str(tmp_path), "--output", str(tmp_path / "own.html")])
    assert len(built) == 2


def test_a_file_in_place_of_the_folder_of_pictures_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(MssegError, match="did not write") as caught:
        main([str(tmp_path), "--pictures", str(tmp_path / "figures")])
    assert caught.value.problems[0].field == "--pictures"
    assert caught.value.exit_code is ExitCode.CONFIG
    assert not (tmp_path / "report.html").exists()
