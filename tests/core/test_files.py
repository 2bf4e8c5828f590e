"""A file is absent or whole, whatever happens while it is written."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from msseg_lightning.core.files import atomic_write, sha256_file, write_json


def test_a_finished_write_appears_under_its_name_alone(tmp_path):
    target = tmp_path / "new" / "mask.nii.gz"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["mask.nii.gz"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_killed_in_mid_write_nothing_stands_under_the_final_name(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from msseg_lightning.core.files import "
        "atomic_write\nwith atomic_write(Path(sys.argv[1])) as t:\n    t.write_text('half')\n"
        "    print('writing', flush=True)\n    time.sleep(60)"
    )
    target = tmp_path / "mask.nii.gz"
    child = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not target.exists()


def test_the_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("flush"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1])
    with atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("content")
    assert calls == ["flush", "rename", "flush"]


def test_a_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_keeps_order_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
