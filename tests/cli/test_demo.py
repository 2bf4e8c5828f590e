"""The command ``msseg demo`` writes a report."""

from __future__ import annotations

import json
import shlex

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.core.wording import program


def test_from_nothing_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--preset", "tiny", "size=tiny", "split.validation=0", "track=off"]) == 0
    said = capsys.readouterr().out
    (report,) = tmp_path.glob("runs/pre_unet/*/report.html")
    assert str(report.relative_to(tmp_path)) in said
    *_, first, second, third, fourth = said.strip().splitlines()
    assert first == f"  {program()} ui"
    for line in (second, third, fourth):  # they run as printed
        words = shlex.split(line.removeprefix(f"  {program()}"))
        assert main(words) == 0
    (mask,) = tmp_path.glob("predictions/demo_*.nii.gz")  # by the system in the package
    side_car = json.loads(mask.with_name(mask.name.replace(".nii.gz", "_msseg.json")).read_text())
    assert side_car["packaged_model"].startswith("find_then_judge")
    assert "no model was named: find_then_judge" in said


@pytest.mark.parametrize(
    "wrong", [["--preset", "nope"], ["--experiment", "nope"], ["trian.steps=2"], ["size=nope"]]
)
def test_what_is_misspelt_is_refused_before_anything_is_done(tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *wrong]) == ExitCode.CONFIG
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())
