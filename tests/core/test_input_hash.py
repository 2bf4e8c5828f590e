"""A file's SHA-256 is computed once while the file stays the same, and never kept for too long."""

from __future__ import annotations

import os
import time

import pytest

from msseg_lightning.core import input_hash as module
from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.input_hash import FileState, Input, input_hash


@pytest.fixture
def digests(monkeypatch):
    """How often whole files were digested."""
    seen = []
    real = module.hashlib.file_digest

    def digest(stream, name):
        seen.append(stream.name)
        return real(stream, name)

    monkeypatch.setattr(module.hashlib, "file_digest", digest)
    return seen


@pytest.fixture
def settled(monkeypatch):
    """Files of this test count as old."""
    monkeypatch.setattr(module, "SETTLED_S", -1.0)


def test_a_file_that_stays_is_digested_once(settled, digests, tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"content")
    assert input_hash(file) == sha256_file(file)
    digests.clear()
    assert input_hash(file) == Input(file).sha256() == sha256_file(file)
    assert len(digests) == 1  # that of the comparison


def in_place(file):
    times = file.stat()
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `rsync --times` does


def by_another_file(file):
    other = file.with_name("b")
    other.write_bytes(b"CONTENT")
    other.replace(file)


@pytest.mark.parametrize("change", [in_place, by_another_file])
def test_a_file_of_equal_size_in_its_place_is_another_file(change, settled, tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"content")
    old = input_hash(file)
    time.sleep(0.02)  # longer than a tick of the file system's clock
    change(file)
    assert input_hash(file) == sha256_file(file) != old
    assert Input(file).sha256() == sha256_file(file)


def test_a_file_that_was_just_written_is_not_remembered(digests, tmp_path):
    file = tmp_path / "a"
    for content in (b"one", b"two", b"six"):  # faster than the clock ticks
        file.write_bytes(content)
        assert input_hash(file) == input_hash(file) == sha256_file(file)
    assert len(digests) == 9


def test_the_digest_is_of_the_bytes_that_were_read(settled, tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    read, old = Input(file), sha256_file(file)
    by_another_file(file)
    assert read.content == b"old" and read.sha256() == old != input_hash(file)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(settled, monkeypatch, tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    states = iter([FileState.of(file), FileState.of(file)._replace(changed_ns=1)])
    monkeypatch.setattr(FileState, "of", classmethod(lambda cls, _: next(states)))
    monkeypatch.setattr(module, "_known", {})
    Input(file).sha256()
    assert not module._known
