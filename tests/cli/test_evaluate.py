from __future__ import annotations

import csv
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli import evaluate
from msseg_lightning.core.files import write_record
from msseg_lightning.core.problem import ExitCode, MssegError


@pytest.fixture
def folders(tmp_path):
    """Three cases: one found, one missed, one without lesions but with a false one."""
    cases = {"a": ((4,), (4,)), "b": ((), (4,)), "c": ((12,), ())}
    for case, sides in cases.items():
        for side, lows in zip(("p", "g"), sides, strict=True):
            mask = np.zeros((20, 18, 16), np.uint8)
            for low in lows:
                mask[low : low + 4, 5:8, 5:8] = 1
            image = nib.Nifti1Image(mask, np.eye(4))
            image.header.set_xyzt_units("mm")
            (tmp_path / side).mkdir(exist_ok=True)
            nib.save(image, tmp_path / side / f"{case}.nii.gz")
    return tmp_path


def test_table_keeps_the_groups_apart(folders, capsys):
    assert evaluate.main([str(folders / "p"), str(folders / "g")]) == ExitCode.OK
    text = capsys.readouterr().out
    with_lesions, without = text.split("cases without new lesions")
    assert "1 of 2" in with_lesions and "│ a " in with_lesions and "│ b " in with_lesions
    assert "│ c " in without and "36.000" in without


def test_json_alone_on_standard_output(folders, capsys):
    pair = [str(folders / side / "a.nii.gz") for side in ("p", "g")]
    assert evaluate.main([*pair, "--json", "-"]) == ExitCode.OK
    (record,) = json.loads(capsys.readouterr().out)
    assert record["case"] == "a"
    assert record["official"]["F1_score"] == 1.0
    assert next(iter(record["official"])) == "Jaccard"
    assert record["reference_lesions"][0]["found"] is True


def test_undefined_is_null_and_an_empty_cell(folders, capsys):
    files = {name: folders / f"out.{name}" for name in ("json", "csv", "summary")}
    arguments = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert evaluate.main([str(folders / "p"), str(folders / "g"), *arguments]) == ExitCode.OK
    capsys.readouterr()
    records = json.loads(files["json"].read_text())
    assert [record["case"] for record in records] == ["a", "b", "c"]
    assert records[1]["official"]["HausdorffDistance"] is None
    assert records[2]["official"] == {"NbTestedLesions": 1.0, "VolTestedLesions": 36.0}
    with files["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["F1_score"] for row in rows] == ["1.0", "0.0", ""]
    assert [row["NbTestedLesions"] for row in rows] == ["", "", "1.0"]
    summary = json.loads(files["summary"].read_text())
    assert summary["with_lesions"]["lesions"]["true"] == 2
    assert summary["without_lesions"]["clean"] == 0


def test_thresholds_reach_the_score(folders, capsys):
    pair = [str(folders / side / "a.nii.gz") for side in ("p", "g")]
    assert evaluate.main([*pair, "--min-lesion-volume", "36", "--json", "-"]) == ExitCode.OK
    (record,) = json.loads(capsys.readouterr().out)
    assert record["detection"]["n_ref"] == 0
    assert record["official"]["SensL"] is None


def test_a_case_without_counterpart_ends_with_9(folders, capsys):
    (folders / "p" / "b.nii.gz").unlink()
    status = evaluate.main([str(folders / "p"), str(folders / "g"), "--json", "-"])
    captured = capsys.readouterr()
    assert status == ExitCode.PARTIAL
    assert "case b has no prediction" in captured.err
    assert [record["case"] for record in json.loads(captured.out)] == ["a", "c"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--alpha", "0"],
        ["--beta", "1.2"],
        ["--gamma", "many"],
        ["--min-lesion-volume", "-1"],
        ["--workers", "0"],
        ["--label-value", "255"],
        ["--label-value", "--2=1"],
        ["--label-value", "2=1", "--label-value", "2=0"],
        ["--prediction-label-value", "2=1", "--prediction-label-value", "2=1"],
        ["--colour"],
    ],
)
def test_wrong_options_end_with_2(folders, wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        evaluate.main([str(folders / "p"), str(folders / "g"), *wrong])
    assert caught.value.code == ExitCode.CONFIG
    assert wrong[0].strip("-").replace("-", "") in capsys.readouterr().err.replace("-", "")


def test_the_order_of_labels_means_nothing(tmp_path, capsys):
    """The remedy for two labels, followed to the letter and in the other order."""
    mask = np.zeros((20, 18, 16), np.int16)
    mask[4:8, 5:8, 5:8] = -7
    mask[12:16, 5:8, 5:8] = 2
    files = [str(tmp_path / name) for name in ("p.nii.gz", "g.nii.gz")]
    for file, data in zip(files, ((mask == 2).astype(np.uint8), mask), strict=True):
        image = nib.Nifti1Image(data, np.eye(4))
        image.header.set_xyzt_units("mm")
        nib.save(image, file)
    with pytest.raises(MssegError) as caught:
        evaluate.main(files)
    words = [word for word in caught.value.problems[0].remedy.split() if word.startswith("--")]
    assert words == ["--label-value=-7=0", "--label-value=2=1"]
    for order in (words, words[::-1]):
        arguments = [*files, *order, "--cases", str(tmp_path / "kept"), "--json", "-"]
        assert evaluate.main(arguments) == ExitCode.OK
        (record,) = json.loads(capsys.readouterr().out)
        assert record["official"]["Dice"] == 1.0 and record["detection"]["n_ref"] == 1


def test_a_missing_file_is_refused(folders):
    with pytest.raises(MssegError) as caught:
        evaluate.main([str(folders / "x.nii.gz"), str(folders / "g" / "a.nii.gz")])
    assert caught.value.exit_code is ExitCode.DATA


def test_help_teaches_and_needs_no_heavy_import(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    assert "ground_truth.nii.gz" in capsys.readouterr().out
    code = (
        "import sys, msseg_lightning.cli.evaluate\n"
        "import msseg_lightning.evaluate.score, msseg_lightning.run.data.evaluate_files\n"
        "assert not {'torch', 'monai', 'mlflow', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("option", ["--json", "--csv", "--summary"])
def test_tables_overwrite_only_tables_of_their_kind(option, folders, capsys):
    words = [str(folders / "p"), str(folders / "g"), option]
    for _ in range(2):
        assert evaluate.main([*words, str(folders / "out")]) == ExitCode.OK
    (folders / "own.txt").write_text('{"EchoTime": 0.1}')
    (folders / "link").symlink_to(folders / "g" / "a.nii.gz")
    for name in ("own.txt", "g/a.nii.gz", "link"):
        before = (folders / name).read_bytes()
        with pytest.raises(MssegError) as caught:
            evaluate.main([*words, str(folders / name)])
        assert caught.value.exit_code is ExitCode.CONFIG
        assert (folders / name).read_bytes() == before


@pytest.mark.parametrize("option", ["--csv", "--json", "--summary"])
def test_tables_do_not_overwrite_the_scores_of_cases(folders, option):
    kept = folders / "kept"
    words = [str(folders / "p"), str(folders / "g"), "--cases", str(kept)]
    with pytest.raises(MssegError, match=r"output.overwrites"):
        evaluate.main([*words, option, str(kept / "a.json")])


def test_the_operating_point_of_the_masks_is_printed(folders, capsys):
    words = {"used": True, "is": "lesion score of at least 0.6: at most 0.1 false lesions"}
    for case, point in (("a", words), ("b", words), ("c", {"used": False, "why": "off"})):
        content = {"written_by": "msseg predict", "files": {}, "operating_point": point}
        write_record(folders / "p" / f"{case}_msseg.json", content)
    assert evaluate.main([str(folders / "p"), str(folders / "g")]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.count("operating point: ") == 1 and f"operating point: {words['is']}" in out
