"""The format is that of nnU-Net's documentation, of version 2."""

import dataclasses
import json

import nibabel
import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import DEFAULT
from msseg_lightning.run.data.nnunet import export_nnunet
from msseg_lightning.split.split import Split


@pytest.fixture(scope="module")
def subjects(coarse_cohort):
    return Msseg2(coarse_cohort).subjects()


def split(*test):
    names = ("001", "002", "003", "004")
    rest = tuple(name for name in names if name not in test)
    return Split(rest[1:], rest[:1], test, "by hand", 0, 0, "")


def test_cases_channels_and_labels(subjects, tmp_path):
    folder = tmp_path / "nnUNet_raw" / "Dataset501_Coarse"
    written = export_nnunet(subjects, split("003", "004"), folder, DEFAULT)
    assert {file.relative_to(folder).as_posix() for file in written} == {
        "dataset.json",
        *(f"imagesTr/{case}_000{channel}.nii.gz" for case in ("001", "002") for channel in "01"),
        *(f"imagesTs/{case}_000{channel}.nii.gz" for case in ("003", "004") for channel in "01"),
        *(f"labelsTr/{case}.nii.gz" for case in ("001", "002")),
        *(f"labelsTs/{case}.nii.gz" for case in ("003", "004")),
    }
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "baseline_flair", "1": "followup_flair"}
    assert content["labels"] == {"background": 0, "new_lesions": 1}
    assert (content["numTraining"], content["file_ending"]) == (2, ".nii.gz")
    for one in subjects:
        part = "Tr" if one.id in ("001", "002") else "Ts"
        for name, file in (
            (FOLLOWUP, folder / f"images{part}" / f"{one.id}_0001.nii.gz"),
            (TARGET, folder / f"labels{part}" / f"{one.id}.nii.gz"),
        ):
            source, copy = nibabel.load(one.files()[name]), nibabel.load(file)
            assert np.array_equal(source.get_fdata(), copy.get_fdata())
            assert np.allclose(source.affine, copy.affine)


def test_another_fold_leaves_no_case_of_the_first(subjects, tmp_path):
    folder = tmp_path / "Dataset501_Coarse"
    export_nnunet(subjects, split("003", "004"), folder, DEFAULT)
    export_nnunet(subjects, split("001"), folder, DEFAULT)
    assert sorted(file.name for file in (folder / "labelsTr").iterdir()) == [
        f"00{number}.nii.gz" for number in (2, 3, 4)
    ]
    assert [file.name for file in (folder / "labelsTs").iterdir()] == ["001.nii.gz"]


def test_files_of_others_are_left_alone(subjects, tmp_path):
    folder = tmp_path / "Dataset501_Coarse"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "mine_0000.nii.gz").write_bytes(b"mine")
    with pytest.raises(MssegError, match=r"export\.not_empty"):
        export_nnunet(subjects, split("003"), folder, DEFAULT)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(MssegError, match=r"output\.overwrites"):
        export_nnunet(subjects, split("003"), folder, DEFAULT)
    assert (folder / "imagesTr" / "mine_0000.nii.gz").read_bytes() == b"mine"


def test_a_name_that_nnunet_does_not_find_is_refused(subjects, tmp_path):
    with pytest.raises(MssegError, match="Dataset501_MSSEG2"):
        export_nnunet(subjects, split("003"), tmp_path / "msseg2", DEFAULT)


def test_visits_on_two_grids_are_refused(subjects, tmp_path):
    scan = nibabel.load(subjects[0].images[BASELINE])
    cut = nibabel.Nifti1Image(np.asarray(scan.dataobj)[:-2], scan.affine, scan.header)
    nibabel.save(cut, tmp_path / "cut.nii.gz")
    other = dataclasses.replace(
        subjects[0],
        images={**subjects[0].images, BASELINE: tmp_path / "cut.nii.gz"},
        masks={TARGET: subjects[0].masks[TARGET]},
        registered=False,
        root=None,
    )
    with pytest.raises(MssegError, match=r"export\.grids"):
        export_nnunet([other], split("003"), tmp_path / "Dataset501_Cut", DEFAULT)
