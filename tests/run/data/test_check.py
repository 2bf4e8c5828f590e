from __future__ import annotations

import shutil

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.open_ms import OpenMs
from msseg_lightning.read.table import TableReader
from msseg_lightning.run.data.check import check_dataset
from tests.read import files


def test_sound_data(tmp_path):
    for name in ("013", "016"):
        files.good_pair(tmp_path, name)
    steps = []
    report = check_dataset(
        Msseg2(tmp_path), advance=lambda done, total: steps.append((done, total))
    )
    assert report.exit_code is ExitCode.OK and not report.problems
    assert report.order == ("time01 before time02 in every folder (names of the files)",)
    assert report.as_dict()["order"] == list(report.order)
    assert report.subjects == ("013", "016") and report.labelled == 2
    assert steps == [(1, 2), (2, 2)]


def test_all_problems_of_all_pairs_at_once(tmp_path):
    for name in ("013", "016", "018"):
        files.good_pair(tmp_path, name)
    (tmp_path / "013" / files.FOLLOWUP).write_bytes(b"")
    files.patch(tmp_path / "018" / files.BASELINE, files.PIXDIM + 4, "f", 0.0)
    report = check_dataset(Msseg2(tmp_path), workers=2)
    assert [(p.code, p.file) for p in report.errors] == [
        ("image.empty_file", f"013/{files.FOLLOWUP}"),
        ("image.voxel_size", f"018/{files.BASELINE}"),
    ]
    record = report.as_dict()
    assert record["errors"] == 2 and record["exit_code"] == 3
    assert set(record["problems"][0]) >= {"code", "file", "field", "found", "expected", "remedy"}


def test_copies_among_patients_are_found(tmp_path):  # D05
    files.good_pair(tmp_path, "013")
    files.good_pair(tmp_path, "016")
    shutil.copy(tmp_path / "013" / files.BASELINE, tmp_path / "016" / files.BASELINE)
    report = check_dataset(Msseg2(tmp_path))
    (problem,) = report.errors
    assert problem.code == "data.copy" and problem.file == f"016/{files.BASELINE}"
    assert problem.field == "baseline_flair of 016"
    assert problem.found == f"identical to baseline_flair of 013, 013/{files.BASELINE}"


def test_every_copy_is_named(tmp_path):
    files.good_pair(tmp_path, "013")
    scans = f"013/{files.BASELINE},013/{files.FOLLOWUP}"
    table = tmp_path / "pairs.csv"
    # B2 is of patient B, A2 of patient A: a patient may have a scan in several pairs
    rows = (("A", "A"), ("B", "B"), ("B2", "B"), ("A2", "A"), ("C", "C"))
    lines = "".join(f"{name},{patient},{scans}\n" for name, patient in rows)
    table.write_text(f"id,patient,baseline_flair,followup_flair\n{lines}")
    report = check_dataset(TableReader(table))
    assert [(p.code, p.field) for p in report.errors] == [
        ("data.copy", f"{visit}_flair of {name}")
        for visit in ("baseline", "followup")
        for name in ("B", "B2", "C")
    ]


def test_a_missing_file_is_named_by_pair_and_role(tmp_path):
    folder = files.good_pair(tmp_path, "013")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "id,baseline_flair,followup_flair,brain\n"
        f"A,013/{files.BASELINE},013/{files.FOLLOWUP},nowhere/brain.nii.gz\n"
        "B,013/none.nii.gz,013/none_either.nii.gz,\n"
    )
    (folder / "none_either.nii.gz").symlink_to(folder / "gone")
    missing, required, link = check_dataset(TableReader(table)).errors
    assert missing.code == "path.missing" and missing.file == "nowhere/brain.nii.gz"
    assert missing.field == "brain of A" and "empty its cell" in missing.remedy
    assert required.code == "path.missing" and required.field == "baseline_flair of B"
    assert "cell" not in required.remedy and "leave this pair out" in required.remedy
    assert link.code == "path.broken_link" and link.field == "followup_flair of B"
    assert link.remedy == "restore the file the link points to"


def test_security_outranks(tmp_path):
    folder = files.good_pair(tmp_path / "root", "013")
    files.good_pair(tmp_path / "root", "016")
    (tmp_path / "root" / "016" / files.TARGET).write_bytes(b"")
    shutil.move(folder / files.FOLLOWUP, tmp_path / "outside.nii.gz")
    (folder / files.FOLLOWUP).symlink_to(tmp_path / "outside.nii.gz")
    assert check_dataset(Msseg2(tmp_path / "root")).exit_code is ExitCode.SECURITY


def test_layout_problems_are_a_report_too(tmp_path):
    report = check_dataset(Msseg2(tmp_path / "none"))
    assert report.exit_code is ExitCode.DATA and report.errors[0].code == "data.root"


def test_our_own_cohort_is_sound(tiny_cohort):
    report = check_dataset(Msseg2(tiny_cohort))
    assert not report.errors, "\n".join(map(str, report.errors))
    assert {problem.code for problem in report.warnings} <= {"mask.empty"}


def test_real_scans_are_sound(open_ms):
    report = check_dataset(OpenMs(open_ms, reverse=False))
    assert not report.errors, "\n".join(map(str, report.errors))
    assert report.labelled == len(report.subjects) == 3
    assert {problem.code for problem in report.warnings} == {"pair.incomplete"}
