from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, CHANGE, FOLLOWUP
from msseg_lightning.read.open_ms import OpenMs

IDENTITY = """#Insight Transform File V1.0
Transform: MatrixOffsetTransformBase_double_3_3
Parameters: 1 0 0 0 1 0 0 0 1 0 0 5
FixedParameters: 0 0 0
"""


def patient(root, name, raw=True, ready=False, studies=(1, 2)):
    common = root / "longitudinal" / "coregistered" / name
    common.mkdir(parents=True)
    for file in ("gt.nii.gz", "brainmask.nii.gz"):
        (common / file).touch()
    for study in studies:
        (common / f"study{study}_FLAIR_to_common_space.txt").write_text(IDENTITY)
        if ready:
            (common / f"study{study}_FLAIR.nii.gz").touch()
        if raw:
            scan = root / "longitudinal" / "raw" / name / f"study{study}_FLAIR.nii.gz"
            scan.parent.mkdir(parents=True, exist_ok=True)
            scan.touch()
    return common


def test_each_patient_is_read_forwards_and_backwards(tmp_path):
    patient(tmp_path, "patient01")
    patient(tmp_path, "patient02", studies=(1,))
    reader = OpenMs(tmp_path)
    forward, backward = reader.subjects()
    assert (forward.id, backward.id) == ("patient01", "patient01_reversed")
    assert forward.patient == backward.patient == "patient01"
    assert forward.images[BASELINE] == backward.images[FOLLOWUP]
    assert forward.images[BASELINE].parts[-3:] == ("raw", "patient01", "study1_FLAIR.nii.gz")
    assert set(forward.masks) == {CHANGE, BRAIN} and forward.labelled
    assert not forward.reversed_time and backward.reversed_time
    np.testing.assert_array_equal(forward.to_native[FOLLOWUP][:3, 3], [0, 0, 5])
    assert [problem.file for problem in reader.skipped()] == ["patient02"]
    assert len(OpenMs(tmp_path, reverse=False).subjects()) == 1


def test_full_download_is_preferred(tmp_path):
    patient(tmp_path, "patient01", ready=True)
    subject = OpenMs(tmp_path).subjects()[0]
    assert "coregistered" in subject.images[BASELINE].parts and not subject.to_native
    assert "raw" in OpenMs(tmp_path, raw=True).subjects()[0].images[BASELINE].parts


def test_nothing_complete(tmp_path):
    patient(tmp_path, "patient01", raw=False)
    with pytest.raises(MssegError, match=r"data.empty.*1 incomplete"):
        OpenMs(tmp_path).subjects()


def test_broken_transform_is_refused(tmp_path):
    folder = patient(tmp_path, "patient01")
    (folder / "study1_FLAIR_to_common_space.txt").write_text("<html>")
    with pytest.raises(MssegError, match=r"transform.unreadable.*patient01"):
        OpenMs(tmp_path).subjects()


def test_real_layout(open_ms):
    reader = OpenMs(open_ms)
    ids = [subject.id for subject in reader.subjects()]
    assert ids[:2] == ["patient01", "patient01_reversed"] and len(ids) == 6
    assert {problem.code for problem in reader.skipped()} == {"pair.incomplete"}
