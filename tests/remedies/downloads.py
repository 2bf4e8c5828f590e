"""Downloads and archives: the server sends the right thing the second time."""

from __future__ import annotations

import contextlib
import hashlib
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from msseg_lightning.run.data import download as module
from msseg_lightning.run.data.archive import extract
from msseg_lightning.run.data.download import RemoteFile, download
from tests.remedies.place import Place, case
from tests.run.data.test_archive import zipped

SHA256 = f"sha256:{hashlib.sha256(b'scan').hexdigest()}"
ADDRESS = "https://example.org/a"


@contextlib.contextmanager
def server(*answers: bytes | Exception) -> Iterator[None]:
    """What is asked for is answered with these, the last one again and again."""
    left = list(answers)

    def answer(url: str, part: Path) -> None:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        part.write_bytes(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_continue", answer)
        patch.setattr(module, "WAIT_S", 0.0)
        yield


@case("download.unknown")
def another_name(place: Place) -> None:
    refusal = place.refused("download.unknown", ["download", "open_mss"])
    assert refusal.remedy.startswith("give one of these names")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_fetch", lambda file, target: None)
        place.ends_well(["download", refusal.expected])


@case("download.address", "download.place")
def a_list_of_somebody_else(place: Place) -> None:
    with server(b"scan"):
        for code, file in (
            ("download.address", RemoteFile("a", "http://example.org/a", SHA256)),
            ("download.place", RemoteFile("../a", ADDRESS, SHA256)),
        ):
            refusal = place.raised(code, lambda file=file: download([file], place.folder))
            assert refusal.remedy.startswith(
                ("give an address that begins with https://", "do not")
            )
        download([RemoteFile("a", ADDRESS, SHA256)], place.folder)


@case("download.hash", "download.unavailable")
def the_same_command_again(place: Place) -> None:
    files = [RemoteFile("a", ADDRESS, SHA256)]
    gone = urllib.error.URLError("no route")
    for code, answer in (("download.hash", b"other"), ("download.unavailable", gone)):
        with server(answer):
            refusal = place.raised(code, lambda: download(files, place.folder))
        assert "give the same command again" in refusal.remedy
    with server(b"scan"):
        download(files, place.folder)


@case("download.in_the_way")
def a_file_of_the_user(place: Place) -> None:
    (place.folder / "a").write_text("mine")
    words = ["download", "--url", ADDRESS, "--sha256", SHA256.removeprefix("sha256:")]
    with server(b"scan"):
        refusal = place.refused("download.in_the_way", [*words, "--folder", place.folder])
        assert refusal.options() == ["--folder"]
        place.ends_well([*words, "--folder", place.folder / "other"])
        (place.folder / "a").rename(place.folder / "b")
        place.ends_well([*words, "--folder", place.folder])


@case("archive.folder", "archive.damaged", "archive.member")
def an_archive(place: Place) -> None:
    sound = zipped(place.folder / "a.zip", ("x", b"y" * 99))
    content = sound.read_bytes()
    out = place.folder / "out"
    out.mkdir()
    refusal = place.raised("archive.folder", lambda: extract(sound, out))
    assert refusal.remedy.startswith("move it away")
    out.rmdir()
    sound.write_bytes(content[:40])
    refusal = place.raised("archive.damaged", lambda: extract(sound, out))
    assert refusal.remedy == "download it again"
    hostile = zipped(place.folder / "b.zip", ("../x", b"y"))
    refusal = place.raised("archive.member", lambda: extract(hostile, out))
    assert refusal.remedy.startswith("do not use this archive")
    sound.write_bytes(content)
    assert extract(sound, out) == 1
