"""A cell is a text or a number, never a formula."""

from __future__ import annotations

import csv
import shutil

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.table_cells import plain_cell, plain_row
from tests.read import files


@pytest.mark.parametrize("text", ["=1+1", "+1-cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_compute_gets_a_quote(text):
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["013", "", "a=b", "-0.5", "+1e-3", -2.0, None, True])
def test_everything_else_stays(value):
    assert plain_row({"a": value}) == {"a": value}


@pytest.mark.badinput
def test_the_name_of_a_mask_becomes_no_formula_in_a_table(tmp_path, capsys):
    folder = files.good_pair(tmp_path)
    for name in ("predicted", "true"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / files.TARGET, tmp_path / name / "=cmd()A1.nii.gz")
    table = tmp_path / "scores.csv"
    words = [str(tmp_path / "predicted"), str(tmp_path / "true"), "--csv", str(table)]
    assert main(["evaluate", *words]) == 0
    with table.open(newline="") as stream:
        assert next(csv.DictReader(stream))["case"] == "'=cmd()A1"
