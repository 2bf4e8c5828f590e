"""K11 to K13: nothing of an archive leaves its folder, and none fills the disk."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.data import archive as module
from msseg_lightning.run.data.archive import extract, is_archive


def zipped(path, *members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content, *mode in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            if mode:
                info.external_attr = mode[0] << 16
            archive.writestr(info, content)
    return path


def tarred(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content, *facts in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in (facts[0] if facts else {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_plain_files_are_extracted_at_once(tmp_path):
    members = [("a/b.txt", b"1" * 40), ("c.txt", b"2" * 40)]
    for made in (zipped(tmp_path / "x.zip", *members), tarred(tmp_path / "x.tar.gz", *members)):
        folder = tmp_path / f"out-{made.name}"
        assert is_archive(made) and extract(made, folder) == 2
        assert (folder / "a" / "b.txt").read_bytes() == b"1" * 40
        with pytest.raises(MssegError) as caught:
            extract(made, folder)
        assert caught.value.exit_code == ExitCode.CONFIG


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc"}
HOSTILE = {
    "zip-parent": lambda p: zipped(p / "a.zip", ("good", b""), ("../x", b"")),
    "zip-absolute": lambda p: zipped(p / "a.zip", ("/tmp/x", b"")),
    "zip-drive": lambda p: zipped(p / "a.zip", ("C:x", b"")),
    "zip-backslash": lambda p: zipped(p / "a.zip", ("..\\x", b"")),
    "zip-link": lambda p: zipped(p / "a.zip", ("x", b"/etc/passwd", 0o120777)),
    "zip-case": lambda p: zipped(p / "a.zip", ("x", b""), ("X", b"")),
    "zip-bomb": lambda p: zipped(p / "a.zip", ("x", bytes(5_000_000))),
    "tar-parent": lambda p: tarred(p / "a.tar.gz", ("good", b""), ("a/../../x", b"")),
    "tar-absolute": lambda p: tarred(p / "a.tar.gz", ("/tmp/x", b"")),
    "tar-link": lambda p: tarred(p / "a.tar.gz", ("x", b"", LINK)),
    "tar-hard-link": lambda p: tarred(
        p / "a.tar.gz", ("x", b"", {"type": tarfile.LNKTYPE, "linkname": "../../x"})
    ),
    "tar-link-then-file": lambda p: tarred(p / "a.tar.gz", ("x", b"", LINK), ("x/y", b"")),
    "tar-device": lambda p: tarred(p / "a.tar.gz", ("x", b"", {"type": tarfile.CHRTYPE})),
    "tar-pipe": lambda p: tarred(p / "a.tar.gz", ("x", b"", {"type": tarfile.FIFOTYPE})),
    "tar-bomb": lambda p: tarred(p / "a.tar.gz", ("x", bytes(5_000_000))),
}


@pytest.mark.badinput
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_with_one_unsafe_member_writes_nothing(kind, tmp_path):
    made = HOSTILE[kind](tmp_path)
    with pytest.raises(MssegError) as caught:
        extract(made, tmp_path / "out")
    assert {problem.code for problem in caught.value.problems} == {"archive.member"}
    assert caught.value.exit_code == ExitCode.SECURITY
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


@pytest.mark.badinput
def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 3)
    made = zipped(tmp_path / "a.zip", *((f"{number}", b"") for number in range(4)))
    with pytest.raises(MssegError, match="more than 3 files"):
        extract(made, tmp_path / "out")


@pytest.mark.badinput
def test_bytes_are_counted_again(tmp_path):
    made = zipped(tmp_path / "a.zip", ("x", b"y" * 1000), kind=zipfile.ZIP_STORED)
    content = made.read_bytes()
    made.write_bytes(content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(MssegError):
        extract(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.badinput
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("cut", [0, 60, -30])
def test_a_damaged_archive_is_named(name, cut, tmp_path):
    make = zipped if name.endswith("zip") else tarred
    made = make(tmp_path / name, ("x", b"y" * 100))
    made.write_bytes(made.read_bytes()[:cut])
    with pytest.raises(MssegError) as caught:
        extract(made, tmp_path / "out")
    assert caught.value.problems[0].file == made and not (tmp_path / "out").exists()
