"""Each experiment goes from files to a tracked, reported prediction, by the real command."""

from __future__ import annotations

import json
import sqlite3

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.compose import experiment_names


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which all experiments share a cache and a tracking store."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_runs_to_its_report(name, workplace, tiny_cohort, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    words = [
        "train",
        name,
        f"read.root={tiny_cohort}",
        "split=file",
        f"split.path={tiny_cohort / 'split.json'}",
        "track=mlflow_plain_ids",
        "data.workers=1",
    ]
    assert main([*words, "size=tiny"]) == ExitCode.OK, capsys.readouterr().err
    (run,) = (workplace / "runs" / name).glob("tiny*")
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["cases"]) == {"003", "004"}
    assert scores["protocol"].startswith("MSSEG-2")
    for case in scores["cases"]:
        mask = nib.load(run / "predictions" / f"{case}.nii.gz")
        scan = nib.load(tiny_cohort / case / "flair_time02_on_middle_space.nii.gz")
        assert mask.shape == scan.shape
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
        assert set(np.unique(mask.dataobj)) <= {0, 1}
        assert json.loads((run / "predictions" / f"{case}.json").read_text())["system"] == name
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Research use only" in report
    with sqlite3.connect(workplace / "mlruns" / "mlflow.db") as store:
        rows = store.execute(
            "select r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'system' and t.value = ?",
            (name,),
        ).fetchall()
    assert len(rows) >= 2 and set(rows) == {("FINISHED",)}  # the run, its fold, stages, members
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
