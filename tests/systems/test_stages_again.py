"""By the real command: what changed is fitted again, and nothing else; a kill costs one stage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def cohort(tiny_cohort, tmp_path, monkeypatch):
    """A copy whose files a test may change; the command runs beside it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny_cohort, tmp_path / "cohort")


def words(cohort, runs, *more):
    return [
        "train",
        "metric_learning_unet",
        "size=tiny",
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
        "track=off",
        "data.workers=1",
        f"paths.runs={runs}",
        *more,
    ]


def stages(folder):
    """Finished first stages: folder -> when it was finished."""
    found = (folder / "cache" / "stages").glob("metric-*/stage.json")
    return {file.parent.name: file.stat().st_mtime_ns for file in found}


def key(folder, runs):
    """What the last stage was made from."""
    (record,) = (folder / runs / "metric_learning_unet").glob("*/fit/stages.json")
    return json.loads(record.read_text())["key"]


def test_a_changed_value_refits_its_stage_and_the_later_ones(cohort, tmp_path):
    assert main(words(cohort, "first")) == ExitCode.OK
    first = stages(tmp_path)
    assert len(first) == 1

    # the last stage's own: a value both inherit, such as train.optimizer.lr, is one of both
    assert main(words(cohort, "second", "loss.alpha=0.3")) == ExitCode.OK
    assert stages(tmp_path) == first  # found, not fitted
    assert key(tmp_path, "second") != key(tmp_path, "first")

    more = "stages.metric.train.steps=5"
    assert main(words(cohort, "third", more)) == ExitCode.OK
    third = stages(tmp_path)
    assert len(third) == 2 and first.items() <= third.items()
    assert key(tmp_path, "third") not in (key(tmp_path, "first"), key(tmp_path, "second"))


def test_a_changed_file_refits_both_stages(cohort, tmp_path):
    assert main(words(cohort, "first")) == ExitCode.OK
    first = stages(tmp_path)
    mask = cohort / "002" / "ground_truth.nii.gz"
    image = nib.load(mask)
    data = np.asarray(image.dataobj)
    data[tuple(np.argwhere(data)[0])] = 0  # one voxel of one training patient
    nib.save(nib.Nifti1Image(data, image.affine, image.header), mask)
    assert main(words(cohort, "second")) == ExitCode.OK
    second = stages(tmp_path)
    assert len(second) == 2 and first.items() <= second.items()
    assert key(tmp_path, "second") != key(tmp_path, "first")


def test_killed_between_its_stages_it_goes_on_with_the_second(cohort, tmp_path, caplog):
    command = [sys.executable, "-m", "msseg_lightning.cli.main", *words(cohort, "runs")]
    process = subprocess.Popen(command, start_new_session=True)
    end = time.monotonic() + 300
    while not (done := stages(tmp_path)) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (run,) = (tmp_path / "runs" / "metric_learning_unet").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] != "finished"
    assert not (run / "model").exists() and len(done) == 1

    assert main(words(cohort, "runs")) == ExitCode.OK
    assert stages(tmp_path) == done
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "stage metric is fitted already" in caplog.text
