"""The command that writes a system as one file."""

from __future__ import annotations

import pytest

from msseg_lightning.cli.export import main
from tests.run.predict.test_model_zip import save


def test_it_says_what_it_wrote(tmp_path, capsys):
    model = save(tmp_path / "model", "bsi_subtraction")
    assert main([str(model), "--zip", str(tmp_path / "system.zip"), "--licence", "CC0"]) == 0
    assert "system.zip: bsi_subtraction, 3 files, 0.0 MB" in capsys.readouterr().out


def test_what_to_write_must_be_said(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["model"])
    assert "--zip FILE" in capsys.readouterr().err
