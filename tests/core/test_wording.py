import sys

from msseg_lightning.core.wording import counted, program


def test_the_program_is_called_as_the_shell_finds_it(tmp_path, monkeypatch):
    own = tmp_path / ".venv" / "bin" / "msseg"
    own.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert program() == f"{own.with_name('python')} -m msseg_lightning"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert program() == ".venv/bin/msseg"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program() == str(own)
    monkeypatch.setenv("PATH", str(own.parent))
    assert program() == "msseg"
    other = tmp_path / "other" / "msseg"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert program() == str(own)


def test_one_is_singular_and_nothing_is_plural():
    assert [counted(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
