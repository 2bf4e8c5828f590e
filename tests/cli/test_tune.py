from __future__ import annotations

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import read_record
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.predict.prediction_files import read_side_car

OPTIONS = ["--false-lesions", "1.5", "--thresholds", "--smallest-mm3", "0"]


def scans(cohort, pair):
    return [
        *("-t1", str(cohort / pair / "flair_time01_on_middle_space.nii.gz")),
        *("-t2", str(cohort / pair / "flair_time02_on_middle_space.nii.gz")),
    ]


@pytest.fixture
def tuned(product, capsys):
    """All folds with their points, and what the command said."""
    assert main(["tune", str(product), *OPTIONS]) == ExitCode.OK
    return product, capsys.readouterr().out


def test_the_point_is_printed_with_the_scores_before_and_after(tuned):
    product, out = tuned
    point, *rest = out.splitlines()
    assert point.startswith("operating point: lesion score of at least 0.")
    assert "at most 1.5 false lesions per patient without new lesions with 90% confidence" in point
    assert "chosen on the 4 held-out pairs of all 2 folds" in point
    before, after = [line for line in rest if "pairs without:" in line]
    assert "0 clean" in before and "2 clean" in after
    assert "Brier score by lesion" in out and f"{product}/report.html" in out
    page = (product / "report.html").read_text()
    assert "Operating point" in page and "data:image/svg+xml" in page


def test_predict_uses_the_point_unless_it_is_told_otherwise(tuned, coarse_cohort, tmp_path, capsys):
    product, _ = tuned
    (run, _) = sorted(product.parent.glob("*-fold[01]-seed0"))
    command = ["predict", str(run), *scans(coarse_cohort, "001"), "-o"]
    # a nested point is chosen on a single patient without new lesions and keeps 0.9
    assert main([*command, str(tmp_path / "a.nii.gz")]) == ExitCode.OK
    assert "operating point: lesion score of at least" in capsys.readouterr().out
    record = read_side_car(tmp_path / "a.nii.gz")
    assert record["operating_point"]["used"] and record["new_lesion_voxels"] == 1
    (lesion,) = record["lesions"]
    assert lesion["score"] == 0.9 and 0 < lesion["probability"] < 1

    assert main([*command, str(tmp_path / "b.nii.gz"), "--operating-point", "off"]) == ExitCode.OK
    record = read_side_car(tmp_path / "b.nii.gz")
    assert record["operating_point"] == {"used": False, "why": "--operating-point off"}
    assert record["new_lesion_voxels"] == 5 and "lesions" not in record

    setting = "postprocess.rules.threshold.value=0.3"
    assert main([*command, str(tmp_path / "c.nii.gz"), setting]) == ExitCode.OK
    assert "not used, settings were given" in capsys.readouterr().out
    assert read_side_car(tmp_path / "c.nii.gz")["new_lesion_voxels"] == 5


def test_scores_of_patients_that_chose_the_point_are_marked(tuned, coarse_cohort, tmp_path, capsys):
    product, _ = tuned
    (run, _) = sorted(product.parent.glob("*-fold[01]-seed0"))
    words = ["read=msseg2", f"read.root={coarse_cohort}", "data.workers=1"]
    words += ["--folder", str(tmp_path / "out"), "--include-training"]
    assert main(["predict", str(run), *words]) == ExitCode.OK
    assert "CHOSEN ON 2 OF THESE PAIRS" in capsys.readouterr().out
    scores = read_record(tmp_path / "out" / "scores.json")
    split = read_record(run / "split.json")
    assert scores["operating_point"]["chosen_on_scored"] == sorted(split["train"] + split["val"])
    assert "CHOSEN ON 2 OF THESE PAIRS" in scores["threshold"]
    assert main(["compare", str(tmp_path / "out")]) == ExitCode.OK
    assert "threshold chosen on 2 of these patients" in " ".join(capsys.readouterr().out.split())
