"""What killed processes left is removed by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from msseg_lightning.core import temporary
from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.temporary import (
    machine,
    remove_leftovers,
    temporary_folder,
    temporary_path,
)


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def left(folder, where, pid, name="mask.nii.gz", age_s=0.0):
    path = folder / f".partial-{where}-{pid}-0123abcd-{name}"
    path.write_bytes(b"half")
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_the_name_tells_the_process_and_keeps_the_suffixes(tmp_path):
    found = temporary_path(tmp_path / ("x" * 240 + ".nii.gz")).name
    assert found.startswith(f".partial-{machine()}-{os.getpid()}-")
    assert found.endswith("x.nii.gz") and len(found) < 255


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(kind, dead, tmp_path):
    path = left(tmp_path, machine(), dead)
    if kind == "folder":
        path.unlink()
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "pair.npy").write_bytes(b"half")
    with atomic_write(tmp_path / "other.json") as place:
        place.write_text("{}")
    assert [one.name for one in tmp_path.iterdir()] == ["other.json"]


def test_what_is_being_written_stays(dead, tmp_path):
    mine = left(tmp_path, machine(), os.getpid())
    elsewhere = left(tmp_path, "0123456789ab", dead)
    others = [tmp_path / ".partial-list", tmp_path / "partial.nii"]
    for path in others:
        path.write_text("of the user")
    assert remove_leftovers(tmp_path) == []
    assert all(path.exists() for path in (mine, elsewhere, *others))


def test_a_number_that_another_process_has_got_since_does_not_protect(tmp_path):
    old = left(tmp_path, machine(), os.getpid(), age_s=10 * 365 * 86400)
    assert remove_leftovers(tmp_path) == [old]


def test_what_another_machine_left_is_removed_after_a_day(dead, tmp_path):
    old = left(tmp_path, "0123456789ab", dead, age_s=25 * 3600)
    left(tmp_path, "0123456789ab", dead, name="new", age_s=3600)
    assert remove_leftovers(tmp_path) == [old]


def test_a_link_is_removed_and_what_it_points_to_stays(dead, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii").touch()
    folder = tmp_path / "out"
    folder.mkdir()
    link = folder / f".partial-{machine()}-{dead}-0123abcd-a"
    link.symlink_to(tmp_path / "scans")
    assert remove_leftovers(folder) == [link]
    assert (tmp_path / "scans" / "a.nii").exists()


def test_a_folder_is_looked_through_once(dead, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(temporary, "remove_leftovers", calls.append)
    for number in range(5):  # a glob for each of 10,000 masks would be 10^8 names
        temporary_path(tmp_path / f"{number}.nii")
    assert calls == [tmp_path]


def test_a_folder_is_renamed_or_removed(tmp_path):
    with temporary_folder(tmp_path / "new" / "a") as place:
        (place / "x").touch()
        place.rename(tmp_path / "new" / "a")
    assert (tmp_path / "new" / "a" / "x").exists()
    with pytest.raises(RuntimeError), temporary_folder(tmp_path / "new" / "b") as place:
        (place / "x").touch()
        raise RuntimeError
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["a"]
