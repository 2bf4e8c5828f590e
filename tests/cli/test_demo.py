"""The demonstration runs from nothing to a report."""

from __future__ import annotations

from msseg_lightning.cli.main import main


def test_from_nothing_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--preset", "tiny", "size=tiny", "split.validation=0", "track=off"]) == 0
    said = capsys.readouterr().out
    (report,) = tmp_path.glob("runs/pre_unet/*/report.html")
    assert str(report.relative_to(tmp_path)) in said
    assert "msseg ui" in said
