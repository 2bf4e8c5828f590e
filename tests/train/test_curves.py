"""Curves are drawn and decide nothing: what is damaged in their file is left out."""

from __future__ import annotations

import pytest

from msseg_lightning.train.curves import CurveFile, read_curves


@pytest.mark.parametrize(
    "bad", [b"x,loss,1\n", b"3,loss\n", b"3,loss,1,2\n", b"\0\0\0\n", b"3,l\xff,y\n", b"3,loss"]
)
def test_a_damaged_row_is_left_out_of_the_drawing_and_of_a_resumed_run(tmp_path, bad):
    curves = CurveFile(tmp_path / "curves.csv")
    curves.log_metrics({"loss": 2.0}, step=1)
    with curves.path.open("ab") as stream:
        stream.write(bad if bad.endswith(b"\n") else b"")
    curves.log_metrics({"loss": 1.0, "epoch": 0.0}, step=2)
    with curves.path.open("ab") as stream:
        stream.write(b"" if bad.endswith(b"\n") else bad)
    rows = [(1, "loss", 2.0), (2, "loss", 1.0)]
    assert [tuple(row.values()) for row in read_curves(curves.path)] == rows
    curves.drop_from(2)
    assert [tuple(row.values()) for row in read_curves(curves.path)] == rows[:1]
    assert read_curves(tmp_path / "none.csv") == []
