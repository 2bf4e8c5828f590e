import json

import pytest

from msseg_lightning.cli.report import main, run_path
from msseg_lightning.core.problem import ExitCode, MssegError


def test_a_run_is_named_by_folder_or_by_id(tmp_path):
    folder = tmp_path / "runs" / "pre_unet" / "msseg2-fold0-seed0"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"mlflow_run_id": "abc"}))
    assert run_path(str(folder), tmp_path / "runs") == folder
    assert run_path("abc", tmp_path / "runs") == folder
    assert str(run_path("other", tmp_path / "runs")) == "other"
    assert str(run_path("other", tmp_path / "nowhere")) == "other"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(MssegError) as caught:
        main([str(tmp_path)])
    assert caught.value.exit_code is ExitCode.MODEL
