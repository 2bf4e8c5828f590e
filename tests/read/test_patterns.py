"""Names of files that settings give instead of the usual ones."""

from __future__ import annotations

import re

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, FOLLOWUP_LESIONS, TARGET
from msseg_lightning.read.bids import Bids
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.open_ms import OpenMs
from msseg_lightning.read.patterns import check_patterns, matching, pattern_of
from msseg_lightning.read.single_timepoint import SingleTimepoint
from msseg_lightning.read.table import TableReader


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def scans(*subjects, sessions=("01", "02")):
    return [
        f"sub-{name}/ses-{session}/anat/sub-{name}_ses-{session}_FLAIR.nii.gz"
        for name in subjects
        for session in sessions
    ]


def settings(reader):
    """The settings that a reader proposes, as arguments of its class."""
    found = {}
    for problem in reader.skipped():
        for group, name, value in re.findall(r"read\.(\w+)\.(\w+)='?([^';]+)", problem.remedy):
            found.setdefault(group, {})[name] = value
    return found


@pytest.mark.parametrize(
    ("mask", "setting"),
    [
        ("derivatives/sub-01_ses-02_lesion.nii.gz",
         "derivatives/{subject}_{session}_lesion.nii.gz"),
        ("sub-01/ses-02/anat/sub-01_ses-02_dseg.nii.gz",
         "{subject}/{session}/anat/{subject}_{session}_dseg.nii.gz"),
        ("derivatives/seg/sub-01/ses-02/anat/sub-01_ses-02_label-L_mask.nii",
         "derivatives/seg/{subject}/{session}/anat/{subject}_{session}_label-L_mask.nii"),
        ("masks/sub-01/manual.nii.gz", "masks/{subject}/manual.nii.gz"),
    ],
)  # fmt: skip
def test_a_mask_of_a_bids_data_set_is_named_with_the_setting_that_reads_it(tmp_path, mask, setting):
    touch(tmp_path, *scans("01"), mask)
    reader = Bids(tmp_path)
    assert not reader.subjects()[0].labelled
    assert settings(reader) == {"masks": {"new_lesions": setting}}
    (pair,) = (mapped := Bids(tmp_path, **settings(reader))).subjects()
    assert pair.masks == {TARGET: tmp_path / mask} and not settings(mapped)


def test_masks_by_labels_without_dashes_and_by_visit(tmp_path):
    touch(tmp_path, *scans("01", "02"), "roi/01/brain_02.nii", "roi/01/all_01.nii")
    patterns = {"brain": "roi/{sub}/brain_{ses}.nii", "baseline_lesions": "roi/{sub}/a*_{ses}.nii"}
    first, second = Bids(tmp_path, masks=patterns).subjects()
    assert {path.name for path in first.masks.values()} == {"brain_02.nii", "all_01.nii"}
    assert set(first.masks) == {BRAIN, "baseline_lesions"} and not second.masks


def test_scans_of_another_suffix(tmp_path):
    touch(tmp_path, *(name.replace("FLAIR", "T2w") for name in scans("01")))
    assert (
        Bids(tmp_path, suffix="T2w").subjects()[0].images[BASELINE].name.endswith("01_T2w.nii.gz")
    )
    with pytest.raises(MssegError, match=r"data.empty.*--layout"):
        Bids(tmp_path).subjects()


def test_one_mask_is_not_that_of_two_pairs(tmp_path):
    touch(tmp_path, *scans("01", sessions=("01", "02", "03")), "masks/sub-01.nii.gz")
    with pytest.raises(MssegError, match=r"bids.mask_of_pairs.*\{session\}"):
        Bids(tmp_path, masks={"new_lesions": "masks/{subject}.nii.gz"}).subjects()


def test_several_files_that_fit_are_refused_until_one_is_chosen(tmp_path):
    touch(tmp_path, *scans("01"), "a/sub-01_1.nii", "a/sub-01_2.nii")
    patterns = {"new_lesions": "a/{subject}_*.nii"}
    with pytest.raises(MssegError, match=r"bids.ambiguous"):
        Bids(tmp_path, masks=patterns).subjects()
    (pair,) = Bids(tmp_path, masks=patterns, choose=["a/sub-01_2.nii"]).subjects()
    assert pair.masks[TARGET].name == "sub-01_2.nii"


NAMES = {
    BASELINE: "flair_time01_on_middle_space.nii.gz",
    FOLLOWUP: "flair_time02_on_middle_space.nii.gz",
}


@pytest.mark.parametrize(
    ("mask", "setting"),
    [
        ("013/lesions_manual.nii.gz", "lesions_manual.nii.gz"),
        ("013/013_gt.nii.gz", "{subject}_gt.nii.gz"),
        ("013/masks/new_lesions.nii", "masks/new_lesions.nii"),
    ],
)
def test_a_mask_in_the_folder_of_a_patient_is_named_with_its_setting(tmp_path, mask, setting):
    touch(tmp_path, *(f"{name}/{file}" for name in ("013", "014") for file in NAMES.values()), mask)
    reader = Msseg2(tmp_path)
    assert not any(pair.labelled for pair in reader.subjects())
    assert settings(reader) == {"files": {"new_lesions": setting}}
    first, second = (mapped := Msseg2(tmp_path, **settings(reader))).subjects()
    assert first.masks == {TARGET: tmp_path / mask} and not second.labelled
    assert not settings(mapped)


def test_scans_of_other_names_are_pairs(tmp_path):
    touch(tmp_path, "a/a_v1.nii", "a/a_v2.nii")
    files = {BASELINE: "{subject}_v1.nii", FOLLOWUP: "*_v2.nii", BRAIN: None}
    (pair,) = Msseg2(tmp_path, files=files).subjects()
    assert [path.name for path in pair.images.values()] == ["a_v1.nii", "a_v2.nii"]
    with pytest.raises(MssegError, match=r"read.pattern_several"):
        Msseg2(tmp_path, files={**files, BASELINE: "*.nii"}).subjects()


def test_a_mask_of_a_single_visit(tmp_path):
    touch(tmp_path, "001/flair.nii.gz", "001/seg_mask.nii.gz")
    reader = SingleTimepoint(tmp_path)
    reader.subjects()
    assert settings(reader) == {"files": {"followup_lesions": "seg_mask.nii.gz"}}
    (scan,) = SingleTimepoint(tmp_path, **settings(reader)).subjects()
    assert scan.masks == {FOLLOWUP_LESIONS: tmp_path / "001" / "seg_mask.nii.gz"}


@pytest.mark.parametrize("column", ["mask", "ground_truth", "new_lesion", "Lesions"])
def test_a_column_of_masks_is_named_with_its_setting(tmp_path, column):
    table = tmp_path / "pairs.csv"
    table.write_text(f"id,baseline_flair,followup_flair,{column}\na,b.nii,c.nii,d.nii\n")
    reader = TableReader(table)
    assert not reader.subjects()[0].labelled
    assert settings(reader)["columns"] == {"new_lesions": column}
    (pair,) = (mapped := TableReader(table, **settings(reader))).subjects()
    assert pair.masks == {TARGET: tmp_path / "d.nii"} and not mapped.skipped()


def test_every_column_of_a_table_may_be_called_otherwise(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("case,first,second,result\na,b.nii,c.nii,out.nii\n")
    columns = {"id": "case", BASELINE: "first", FOLLOWUP: "second", "output": "result"}
    reader = TableReader(table, columns={**columns, "brain": None})
    assert reader.subjects()[0].images[BASELINE].name == "b.nii"
    assert list(reader.outputs()) == ["a"]
    with pytest.raises(MssegError, match=r"table.column.*fourth"):
        TableReader(table, columns={**columns, "sex": "fourth"}).subjects()
    with pytest.raises(MssegError, match=r"table.columns"):
        TableReader(table, columns={"reference": "result"})


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ({"lesion": "a.nii"}, "lesion"),
        ({"new_lesions": "../a.nii"}, r"\.\./a.nii"),
        ({"new_lesions": "/a.nii"}, "/a.nii"),
        ({"new_lesions": "{patient}.nii"}, "patient"),
        ({"new_lesions": ""}, "new_lesions"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(patterns, found):
    with pytest.raises(MssegError, match=found) as caught:
        check_patterns(patterns, ("new_lesions",), ("subject",), "read.files")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("reader", [Bids, Msseg2])
def test_a_pattern_that_fits_nothing_is_refused(tmp_path, reader):
    touch(tmp_path, *scans("01"), *(f"013/{file}" for file in NAMES.values()))
    key = "masks" if reader is Bids else "files"
    with pytest.raises(MssegError, match=r"read.pattern_unused") as caught:
        reader(tmp_path, **{key: {"brain": "none.nii"}}).subjects()
    assert caught.value.exit_code == 2


def test_names_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "a[1]_x.nii", "a1_x.nii")
    assert [path.name for path in matching(tmp_path, "{s}_x.nii", s="a[1]")] == ["a[1]_x.nii"]
    assert pattern_of("m/13_013_130.nii", subject="13", none="") == "m/{subject}_013_130.nii"


@pytest.mark.parametrize(
    ("reader", "pairs"), [(Bids, 1), (Msseg2, 1), (OpenMs, 2), (SingleTimepoint, 1)]
)
def test_a_layout_is_what_its_reader_reads(tmp_path, reader, pairs):
    files = re.findall(r"^  (\S+\.nii\.gz)", reader.LAYOUT, re.M)
    touch(tmp_path, *files)
    found = (read := reader(tmp_path)).subjects()
    assert len(found) == pairs and not read.skipped()
    if reader is not SingleTimepoint:
        assert all(pair.labelled for pair in found)
    used = {path for pair in found for path in pair.files().values()}
    assert {path.relative_to(tmp_path).as_posix() for path in used} >= set(files) - {
        name for name in files if "rater" in name or "expert" in name
    }


def test_the_layout_of_a_table_is_what_its_reader_reads(tmp_path):
    (table := tmp_path / "pairs.csv").write_text(
        "\n".join(re.findall(r"^  (\S+)$", TableReader.LAYOUT, re.M))
    )
    first, second = TableReader(table).subjects()
    assert first.labelled and not second.labelled and first.patient == "MS-7"
