from __future__ import annotations

import hashlib

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.run.data import download as module
from tests.run.data.test_archive import zipped


def test_the_known_data_sets_are_listed(capsys):
    assert main(["download"]) == 0
    assert "open_ms" in capsys.readouterr().out
    assert main(["download", "none_such"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--url", "https://x/a"],
        ["--url", "https://x/a", "--sha256", "0" * 64],
        ["--url", "https://x/a", "--sha256", "0" * 63, "--folder", "x"],
        ["open_ms", "--url", "https://x/a", "--sha256", "0" * 64, "--folder", "x"],
    ],
)
def test_what_does_not_go_together_is_a_usage_error(words):
    with pytest.raises(SystemExit) as caught:
        main(["download", *words])
    assert caught.value.code == 2


def test_a_card_is_fetched_and_the_next_command_named(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(module, "_fetch", lambda file, target: asked.append(target))
    assert main(["download", "open_ms", "--folder", str(tmp_path)]) == 0
    assert len(asked) == 82 and all(path.is_relative_to(tmp_path) for path in asked)
    assert f"msseg check read=open_ms read.root={tmp_path}" in capsys.readouterr().out


def test_an_archive_is_extracted_and_removed(tmp_path, monkeypatch, capsys):
    made = zipped(tmp_path / "a.zip", ("scans/1.nii", b"x"))

    def fetch(file, target):
        target.parent.mkdir(parents=True)
        target.write_bytes(made.read_bytes())

    monkeypatch.setattr(module, "_fetch", fetch)
    sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
    words = ["--url", "https://example.org/b.zip?x=1", "--sha256", sha256]
    assert main(["download", *words, "--folder", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "scans" / "1.nii").read_bytes() == b"x"
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "out"}
