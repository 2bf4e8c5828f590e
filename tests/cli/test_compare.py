import csv
import json

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from tests.compare import scored


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scored.write_run(tmp_path / "runs", "good", scored.scores(0.9, 1))
    scored.write_run(tmp_path / "runs", "poor", scored.scores(0.2, 2))
    cases = scored.patients()
    masks = {case: 255 * scored.prediction(case, 0.5, 3) for case in cases}
    scored.write_masks(tmp_path / "masks", masks)
    truths = {case: scored.reference(case) for case in cases}
    scored.write_masks(tmp_path / "truth", truths, "{}/ground_truth.nii.gz")
    return tmp_path


RUNS = ["runs/good/toy-fold0-seed0", "runs/poor/toy-fold0-seed0"]


def test_two_runs_and_masks_of_another_tool_in_one_leaderboard(place, capsys):
    words = [*RUNS, "nnU-Net=masks", "--reference", "truth", "--prediction-label-value", "255=1"]
    assert main(["compare", *words, "--output", "board"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "3 systems on the same patients" in out and "| nnU-Net |" in out
    assert "board/leaderboard.html" in out and (place / "board" / "pairs.csv").exists()


def test_the_measure_and_one_file(place, capsys):
    assert main(["compare", *RUNS, "--measure", "dice", "--output", "a.csv"]) == ExitCode.OK
    assert ",dice," in (place / "a.csv").read_text()
    assert "ranked by Dice" in capsys.readouterr().out


def test_refusals_end_with_their_code_before_anything_is_written(place, capsys):
    assert main(["compare", "masks", "--output", "board"]) == ExitCode.CONFIG
    assert "--reference FOLDER" in capsys.readouterr().err
    assert main(["compare", *RUNS, "--output", "a.pdf"]) == ExitCode.CONFIG
    content = json.loads((place / RUNS[1] / "scores.json").read_text())
    del content["checksum"]
    content["protocol"] = "another"
    (place / RUNS[1] / "scores.json").write_text(json.dumps(content))
    assert main(["compare", *RUNS, "--output", "board"]) == ExitCode.DATA
    assert "compare.rules" in capsys.readouterr().err
    assert not (place / "board").exists()


def test_an_output_that_is_the_scores_of_a_run_is_refused(place, capsys):
    (place / "scores").mkdir()
    assert main(["compare", *RUNS, "--output", f"{RUNS[0]}/scores.json"]) == ExitCode.CONFIG


@pytest.mark.parametrize(
    "words",
    [
        ["read=msseg2"],
        ["masks", "--reference", "truth", "read=msseg2"],
        ["masks", "--label-value", "x"],
        ["masks", "--reference", "truth", "--label-value", "0=1", "--label-value", "0=0"],
    ],
)
def test_wrong_options_end_with_2(place, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", *words])
    assert end.value.code == 2


def test_a_run_equals_its_own_masks_scored_as_those_of_another_tool(
    trained_run, tiny_cohort, tmp_path, monkeypatch, capsys
):
    """Data set, folder of references and run agree on scores, patients and reference hashes."""
    monkeypatch.chdir(tmp_path)
    words = ["compare", str(trained_run), f"again={trained_run / 'predictions'}"]
    data = ["read=msseg2", f"read.root={tiny_cohort}", "--froc"]
    assert main([*words, *data, "--output", "a.csv"]) == ExitCode.OK
    assert main([*words, "--reference", str(tiny_cohort), "--output", "b.csv"]) == ExitCode.OK
    assert "1 with new lesions, 1 without" in capsys.readouterr().out
    with (tmp_path / "a.csv").open(newline="") as stream:
        run, again = csv.DictReader(stream)
    assert {run["system"], again["system"]} == {"pre_unet", "again"}
    for name in ("f1", "dice", "false_lesions", "true_lesions", "clean_patients"):
        assert float(run[name]) == float(again[name])
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    assert main([*words, *data, "--output", "c.md"]) == ExitCode.OK
    assert "## Sensitivity over false lesions per patient" in (tmp_path / "c.md").read_text()
    costs = {row["system"]: row["minutes"] for row in (run, again)}
    assert float(costs["pre_unet"]) > 0 and costs["again"] == ""
