"""Unpacking in one call never changes what unpacking bit by bit says."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.read.stream import Limits, Stream, _once

PLAIN = np.random.default_rng(3).integers(0, 40, 3000, np.uint8).tobytes()
SOUND = gzip.compress(PLAIN, mtime=0)
NAMED = b"\x1f\x8b\x08\x18" + bytes(4) + b"\x00\x03scan.nii\0note\0" + SOUND[10:]


def bad_streams():
    draw = np.random.default_rng(4)
    yield from (SOUND, NAMED, gzip.compress(PLAIN, 0), gzip.compress(PLAIN[:-1]))
    yield gzip.compress(PLAIN + b"x")
    yield gzip.compress(PLAIN + bytes(2_000_000))
    yield gzip.compress(PLAIN[:1200]) + gzip.compress(PLAIN[1200:])
    yield SOUND + SOUND  # the last trailer is that of the first stream
    yield SOUND + gzip.compress(PLAIN, 1)
    yield from (SOUND + tail for tail in (bytes(7), b"<html>", SOUND[-8:], SOUND[-4:], SOUND[:10]))
    yield SOUND[:-8] + bytes(8)
    yield from (SOUND[:length] for length in range(2, len(SOUND), 41))
    yield zlib.compress(PLAIN)
    for place in draw.integers(2, len(SOUND), 300):
        damaged = bytearray(SOUND)
        damaged[place] ^= 1 << draw.integers(8)
        yield bytes(damaged)


def answer(path, packed):
    path.write_bytes(packed)
    try:
        content, extra = Stream(path, "a.nii.gz", Limits()).body(len(PLAIN))
    except MssegError as error:
        return error.problems
    return bytes(content), extra


def test_the_quick_way_says_what_the_thorough_one_says(tmp_path, monkeypatch):
    streams = list(bad_streams())
    quick = [answer(tmp_path / "a", packed) for packed in streams]
    monkeypatch.setattr(Stream, "_at_once", lambda stream, expected: None)
    assert quick == [answer(tmp_path / "a", packed) for packed in streams]
    assert quick[0] == quick[1] == (PLAIN, 0)
    assert sum(isinstance(found[0], bytes) for found in quick) > 4
    assert len({found[0].code for found in quick if not isinstance(found[0], bytes)}) > 4


@pytest.mark.parametrize("packed", [SOUND, NAMED])
def test_a_sound_stream_is_unpacked_at_once_into_writable_memory(packed, tmp_path):
    (tmp_path / "a").write_bytes(packed)
    assert isinstance(Stream(tmp_path / "a", "a", Limits()).body(len(PLAIN))[0], bytearray)


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("length", range(24, 28))
def test_a_second_trailer_is_found_wherever_it_stands(place, length):
    trailer = bytes(range(11, 19))
    once = b"\xff" * length + trailer
    twice = b"\xff" * place + trailer + b"\xff" * (length - place - 8) + trailer
    assert _once(once, trailer)
    assert not _once(twice, trailer)
    assert _once(b"\xff" * length + trailer[:4] + trailer, trailer)  # half of it, by chance
