from __future__ import annotations

import os

import pytest

from msseg_lightning.core.paths import resolve_file, shown
from msseg_lightning.core.problem import ExitCode, MssegError


def refused(path, root=None, **options):
    with pytest.raises(MssegError) as caught:
        resolve_file(path, root, **options)
    (problem,) = caught.value.problems
    assert problem.remedy and problem.field and problem.file
    return problem.code, caught.value.exit_code


def test_plain_file_and_links_inside_the_root(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert resolve_file(tmp_path / "b", tmp_path) == (tmp_path / "a").resolve()


def test_link_out_of_the_root_is_a_security_matter(tmp_path):  # D27
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "scan").symlink_to("../secret")
    assert refused(root / "scan", root) == ("path.outside", ExitCode.SECURITY)
    assert refused(root / ".." / "secret", root) == ("path.outside", ExitCode.SECURITY)
    assert resolve_file(root / "scan", root, allow_external_links=True).name == "secret"


def test_things_that_are_no_files(tmp_path):
    assert refused(tmp_path / "none") == ("path.missing", ExitCode.DATA)
    (tmp_path / "broken").symlink_to("none")
    assert refused(tmp_path / "broken") == ("path.broken_link", ExitCode.DATA)  # D28
    (tmp_path / "annex").symlink_to(".git/annex/objects/x/MD5E-s1--0.nii.gz")
    with pytest.raises(MssegError, match="git annex get"):
        resolve_file(tmp_path / "annex")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert refused(tmp_path / "one") == ("path.link_loop", ExitCode.DATA)  # D26
    (tmp_path / "dir").mkdir()
    assert refused(tmp_path / "dir") == ("path.folder", ExitCode.DATA)  # D29
    (tmp_path / "dir" / "1.dcm").touch()
    with pytest.raises(MssegError, match="dcm2niix"):  # D33
        resolve_file(tmp_path / "dir")


def test_pipes_and_devices_are_never_opened(tmp_path):  # D30
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == ("path.device", ExitCode.SECURITY)
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert refused(tmp_path / "zero") == ("path.device", ExitCode.SECURITY)


def test_unreadable_file_is_a_matter_of_the_machine(tmp_path, monkeypatch):  # D31
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind a superuser
    assert refused(tmp_path / "a") == ("path.permission", ExitCode.ENVIRONMENT)


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "x" * 300, "y/" * 3000])
def test_unfit_names(name, tmp_path):  # D12, D13
    assert refused(tmp_path / name)[1] is ExitCode.DATA


def test_only_the_part_below_the_root_is_shown(tmp_path):
    root = tmp_path / "study"
    assert shown(root / "013" / "a.nii.gz", root) == "013/a.nii.gz"
    assert shown(root / "013" / "a.nii.gz") == "013/a.nii.gz"
    assert str(tmp_path) not in shown(tmp_path / "elsewhere" / "a.nii.gz", root)
