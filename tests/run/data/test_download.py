"""Downloads are whole, the right ones, and go on where they stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.data import download as module
from msseg_lightning.run.data.download import (
    RemoteFile,
    card_names,
    download,
    read_card,
)

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@dataclasses.dataclass
class Server:
    """What the server does with its next requests, and what it was asked."""

    address: str = ""
    faults: list[str] = dataclasses.field(default_factory=list)
    asked: list[str | None] = dataclasses.field(default_factory=list)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "WAIT_S", 0.0)
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            fault = state.faults.pop(0) if state.faults else ""
            state.asked.append(self.headers.get("Range"))
            if fault.isdigit():
                self.send_error(int(fault))
                return
            if fault.startswith("to "):
                self.send_response(302)
                self.send_header("Location", fault.removeprefix("to "))
                self.end_headers()
                return
            begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if fault == "no ranges":
                begin = 0
            if begin >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                shown = begin + 7 if fault == "wrong range" else begin
                self.send_header("Content-Range", f"bytes {shown}-{len(CONTENT) - 1}/x")
            body = CONTENT[begin:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "changed":
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        state.address = f"http://127.0.0.1:{running.server_port}/scan.nii.gz"
        yield state
        running.shutdown()


def file_of(server, path="a/scan.nii.gz", found=SHA256):
    return RemoteFile(path, server.address, found)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [None]),
        (["cut", "cut"], [None, "bytes=150000-", "bytes=225000-"]),
        (["cut", "no ranges"], [None, "bytes=150000-"]),
        (["500", "503", "cut"], [None, None, None, "bytes=150000-"]),
        (["429"], [None, None]),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_a_download_goes_on_where_it_stopped(faults, ranges, server, tmp_path):
    server.faults = list(faults)
    done = download([file_of(server)], tmp_path)
    assert done.fetched == ("a/scan.nii.gz",) and server.asked == ranges
    assert (tmp_path / "a" / "scan.nii.gz").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["scan.nii.gz"]
    assert download([file_of(server)], tmp_path).present == ("a/scan.nii.gz",)
    assert server.asked == ranges  # nothing is asked for what is there


@pytest.mark.faults
def test_a_later_command_goes_on_too(server, tmp_path):
    server.faults = ["cut"] + ["500"] * 9
    with pytest.raises(MssegError) as caught:
        download([file_of(server)], tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.exit_code) == ("download.unavailable", ExitCode.ENVIRONMENT)
    assert not (tmp_path / "a" / "scan.nii.gz").exists()
    server.faults, server.asked = [], []
    download([file_of(server)], tmp_path)
    assert server.asked == ["bytes=150000-"]


@pytest.mark.faults
def test_all_that_was_fetched_before_a_kill_is_compared_first(server, tmp_path):
    (tmp_path / ".scan.nii.gz.download").write_bytes(CONTENT)
    download([file_of(server, "scan.nii.gz")], tmp_path)
    assert (tmp_path / "scan.nii.gz").read_bytes() == CONTENT


@pytest.mark.badinput
def test_another_content_is_not_kept(server, tmp_path):
    server.faults = ["changed"]
    with pytest.raises(MssegError) as caught:
        download([file_of(server, "scan.nii.gz")], tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.exit_code) == ("download.hash", ExitCode.SECURITY)
    assert list(tmp_path.iterdir()) == []
    download([file_of(server, "scan.nii.gz")], tmp_path)


@pytest.mark.faults
def test_another_part_than_was_asked_for_is_not_appended(server, tmp_path):
    (tmp_path / ".scan.nii.gz.download").write_bytes(CONTENT[:1000])
    server.faults = ["wrong range"]
    download([file_of(server, "scan.nii.gz")], tmp_path)
    assert server.asked == ["bytes=1000-", None]
    assert (tmp_path / "scan.nii.gz").read_bytes() == CONTENT


@pytest.mark.badinput
@pytest.mark.parametrize("status", ["404", "403"])
def test_what_is_not_there_is_asked_for_once(status, server, tmp_path):
    server.faults = [status] * 9
    with pytest.raises(MssegError, match=status):
        download([file_of(server)], tmp_path)
    assert len(server.asked) == 1


@pytest.mark.badinput
@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://example.org/a", "ftp://example.org/a", "https:///a"]
)
def test_other_addresses_than_https_are_never_asked(url, server, tmp_path):
    with pytest.raises(MssegError) as caught:
        download([RemoteFile("a", url, SHA256)], tmp_path)
    assert caught.value.exit_code == ExitCode.SECURITY
    server.faults = [f"to {url}"]
    with pytest.raises(MssegError) as caught:
        download([file_of(server)], tmp_path)
    assert not (tmp_path / "a" / "scan.nii.gz").exists()


@pytest.mark.badinput
@pytest.mark.parametrize(
    "path", ["../a", "/tmp/a", "a/../../b", "~/a", "a\\..\\b", "C:a", "link/a", "a\nb", ""]
)
def test_a_list_of_files_leads_nowhere_else(path, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(MssegError) as caught:
        download([RemoteFile(path, "https://example.org/a", SHA256)], tmp_path / "root")
    (problem,) = caught.value.problems
    assert (problem.code, problem.exit_code) == ("download.place", ExitCode.SECURITY)


@pytest.mark.badinput
def test_a_file_of_the_user_is_not_overwritten(server, tmp_path):
    (tmp_path / "scan.nii.gz").write_text("mine")
    with pytest.raises(MssegError) as caught:
        download([file_of(server, "scan.nii.gz")], tmp_path)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert (tmp_path / "scan.nii.gz").read_text() == "mine" and server.asked == []


def test_the_hash_of_git_is_that_of_git(tmp_path):
    (tmp_path / "x").write_bytes(b"what is up, doc?")  # the example of git's own book
    found = module._digest(tmp_path / "x", "git:")
    assert found == "git:bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_every_card_is_complete():
    assert card_names() == ["open_ms"]
    card = read_card("open_ms")
    assert card.licence and card.cite and card.reader == "open_ms"
    masks = [file for file in card.files if file.path.endswith("/gt.nii.gz")]
    assert len(masks) == 20 and all(file.url.startswith("https://") for file in card.files)
    with pytest.raises(MssegError, match="open_ms"):
        read_card("../open_ms")


def test_the_card_names_the_files_that_are_published(open_ms):
    for file in read_card("open_ms").files:
        if (open_ms / file.path).is_file():
            assert module._digest(open_ms / file.path, file.hash) == file.hash
