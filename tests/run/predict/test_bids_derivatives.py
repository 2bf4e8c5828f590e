"""Predictions of a BIDS data set in its own layout."""

from __future__ import annotations

import json
import shutil

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.read.bids import Bids
from msseg_lightning.run.predict.bids_derivatives import DESCRIPTION, is_bids
from tests.run.predict.test_model_zip import save


@pytest.fixture
def data_set(coarse_cohort, tmp_path):
    """One patient of the cohort as BIDS, with reference and brain mask."""
    root = tmp_path / "ds"
    for session, visit in (("ses-1", 1), ("ses-2", 2)):
        anat = root / "sub-A" / session / "anat"
        anat.mkdir(parents=True)
        scan = coarse_cohort / "003" / f"flair_time0{visit}_on_middle_space.nii.gz"
        shutil.copy(scan, anat / f"sub-A_{session}_FLAIR.nii.gz")
    masks = root / "derivatives" / "manual" / "sub-A" / "ses-2" / "anat"
    masks.mkdir(parents=True)
    for name, label in (("ground_truth", "label-newlesion"), ("brain_mask", "desc-brain")):
        target = masks / f"sub-A_ses-2_{label}_mask.nii.gz"
        shutil.copy(coarse_cohort / "003" / f"{name}.nii.gz", target)
    return root


def test_names_description_and_sources_are_those_of_bids(data_set, tmp_path, capsys):
    model = save(tmp_path / "model", "bsi_subtraction")
    out = data_set / "derivatives" / "msseg"
    words = ["predict", str(model), "--folder", str(out), "read=bids", f"read.root={data_set}"]
    words += ["read.registered=true", "data.workers=1", f"paths.cache={tmp_path / 'cache'}"]
    assert main(words) == ExitCode.OK, capsys.readouterr().err
    anat = out / "sub-A" / "ses-2" / "anat"
    assert (anat / "sub-A_ses-2_desc-newlesions_mask.nii.gz").is_file()
    description = json.loads((out / DESCRIPTION).read_text())
    assert description["DatasetType"] == "derivative" and description["BIDSVersion"]
    (by,) = description["GeneratedBy"]
    assert by["Name"] == "msseg_lightning" and "bsi_subtraction" in by["Description"]
    side_car = json.loads((anat / "sub-A_ses-2_desc-newlesions_mask.json").read_text())
    assert side_car["Sources"] == [
        f"bids:raw:sub-A/ses-{visit}/anat/sub-A_ses-{visit}_FLAIR.nii.gz" for visit in (1, 2)
    ]
    patterns = (out / ".bidsignore").read_text().split()
    assert {"*_msseg.json", "scores", "**/steps"} <= set(patterns)
    assert "1 pair with new lesions" in capsys.readouterr().out
    # it is no reference of the data set that it lies in
    (pair,) = Bids(data_set, registered=True).subjects()
    assert "manual" in pair.masks["new_lesions"].parts
    # again: nothing is refused; another's description is
    assert main(words) == ExitCode.OK
    (out / DESCRIPTION).write_text('{"Name": "theirs"}')
    assert main(words) == ExitCode.CONFIG


def test_only_bids_is_written_so():
    assert is_bids({"read": {"_target_": "msseg_lightning.read.bids.Bids"}})
    assert not is_bids({"read": {"_target_": "msseg_lightning.read.table.TableReader"}})
    assert not is_bids({"read": {}})
