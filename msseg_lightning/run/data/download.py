"""Download of public data sets: resumable, and compared with the hashes of a card."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from msseg_lightning.core.files import flush_folder
from msseg_lightning.core.problem import ExitCode, MssegError, Problem

CARDS = Path(__file__).with_name("collections")
ATTEMPTS = 5
WAIT_S = 1.0
TIMEOUT_S = 60.0
BLOCK = 1 << 20
LARGEST_BYTES = 50_000_000_000
_AGAIN = "give the same command again: it goes on where it stopped"


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Args:
        path: below the folder of the data set, with ``/``.
        url: where it is.
        hash: ``sha256:`` or ``git:`` (the id of the file in its git repository) and hexadecimal
            digits.
    """

    path: str
    url: str
    hash: str


@dataclasses.dataclass(frozen=True)
class Card:
    """A public data set.

    Args:
        name: of the data set.
        about: what it is, in a line.
        licence: under which it may be used.
        cite: what to cite.
        reader: preset of ``read=`` that reads it.
        files: all of them.
    """

    name: str
    about: str
    licence: str
    cite: str
    reader: str
    files: tuple[RemoteFile, ...]


@dataclasses.dataclass(frozen=True)
class DownloadResult:
    """Files that were fetched, and those that were there already."""

    fetched: tuple[str, ...]
    present: tuple[str, ...]


def card_names() -> list[str]:
    """Names of the cards."""
    return sorted(path.stem for path in CARDS.glob("*.json"))


def read_card(name: str) -> Card:
    """The card of a data set.

    Raises:
        MssegError: there is none of this name (exit 2).
    """
    if name not in card_names():
        raise MssegError(
            Problem(
                "download.unknown",
                "there is no card of this data set",
                field="NAME",
                found=name,
                expected=", ".join(card_names()),
                remedy="give one of these names, or --url URL --sha256 HASH",
                exit_code=ExitCode.CONFIG,
            )
        )
    content = json.loads((CARDS / f"{name}.json").read_text(encoding="utf-8"))
    base = content["base"]
    files = tuple(
        RemoteFile(path, f"{base}{urllib.parse.quote(path)}", found)
        for path, found in content["files"].items()
    )
    facts = {key: content[key] for key in ("about", "licence", "cite", "reader")}
    return Card(name, files=files, **facts)


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    advance: Callable[[int, int], None] | None = None,
) -> DownloadResult:
    """Fetch the files that are missing; each appears under its name once its hash is right.

    What was fetched before an interruption is kept beside the file as ``.<name>.download``, and the
    next call goes on there.

    Args:
        files: to fetch.
        folder: below which they lie.
        advance: progress, called with the number of files that are there, and of all.

    Raises:
        MssegError: a path or address is refused, or the content is another (exit 6); a file of the
            user is in the way (exit 2); the server cannot be reached (exit 5).
    """
    root = folder.expanduser().resolve()
    for file in files:
        _refuse_place(file, root)
        _refuse_address(file.url)
    fetched, present = [], []
    for number, file in enumerate(files):
        target = root / file.path
        if target.is_file() and _digest(target, file.hash) == file.hash:
            present.append(file.path)
        elif os.path.lexists(target):
            raise MssegError(
                Problem(
                    "download.in_the_way",
                    "another file of this name is there already",
                    file=target,
                    expected=f"no file, or one with the hash {file.hash[:20]}",
                    remedy="move it away, or name another folder: --folder FOLDER",
                    exit_code=ExitCode.CONFIG,
                )
            )
        else:
            _fetch(file, target)
            fetched.append(file.path)
        if advance is not None:
            advance(number + 1, len(files))
    return DownloadResult(tuple(fetched), tuple(present))


def _fetch(file: RemoteFile, target: Path) -> None:
    """Fetch one file, with several attempts, and put it under its name if its hash is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.download")
    failure: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT_S * 2 ** (attempt - 1))
        try:
            _continue(file.url, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to fetch, or the part is of another file
                failure = None
                break
            failure = error
            if error.code < 500 and error.code != 429:
                raise _unavailable(file, error) from error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            failure = error
        else:
            failure = None
            break
    if failure is not None:
        raise _unavailable(file, failure) from failure
    found = _digest(part, file.hash)
    if found != file.hash:
        part.unlink()
        raise MssegError(
            Problem(
                "download.hash",
                "the server sent another content than the card names; it was not kept",
                file=file.path,
                field="hash",
                found=found,
                expected=file.hash,
                remedy=f"{_AGAIN}; if it stays so, the file was changed at its source: report it",
                exit_code=ExitCode.SECURITY,
            )
        )
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.rename(target)
    flush_folder(target.parent)


def _continue(url: str, part: Path) -> None:
    """Append what is missing; a server that knows no ranges sends all of it again."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "msseg_lightning", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    with _opener().open(request, timeout=TIMEOUT_S) as answer:
        appended = answer.status == 206
        if appended and not _begins_at(answer, have):
            part.unlink(missing_ok=True)  # begin again
            raise http.client.HTTPException("the server sent another part than was asked for")
        length = answer.headers.get("Content-Length")
        wanted = (have if appended else 0) + int(length) if length else None
        if wanted is not None and wanted > min(LARGEST_BYTES, shutil.disk_usage(part.parent).free):
            raise OSError(28, f"{wanted} bytes do not fit", str(part.parent))
        with part.open("ab" if appended else "wb") as stream:
            while block := answer.read(BLOCK):
                stream.write(block)
                if stream.tell() > LARGEST_BYTES:
                    raise OSError(27, "the answer does not end", str(part))
    if wanted is not None and part.stat().st_size < wanted:
        raise http.client.IncompleteRead(b"", wanted - part.stat().st_size)


def _begins_at(answer: Any, place: int) -> bool:
    return bool(re.match(rf"bytes {place}-", answer.headers.get("Content-Range", "")))


_DISK = (13, 27, 28, 30, 122)
"""Numbers of errors of this machine: permission, size of a file, full, read-only, quota."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects to addresses that may be asked only."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, url: str
    ) -> Any:
        _refuse_address(url)
        return super().redirect_request(req, fp, code, msg, headers, url)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SafeRedirects)


def _refuse_address(url: str) -> None:
    """Refuse addresses that are not of https; http is allowed on this computer."""
    parts = urllib.parse.urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if (parts.scheme == "https" and parts.hostname) or (parts.scheme == "http" and local):
        return
    raise MssegError(
        Problem(
            "download.address",
            "files are fetched by https only",
            field="URL",
            found=url[:200],
            expected="https://...",
            remedy="give an address that begins with https://",
            exit_code=ExitCode.SECURITY,
        )
    )


def _refuse_place(file: RemoteFile, root: Path) -> None:
    """Refuse a path that leads out of the folder."""
    parts = PurePosixPath(file.path).parts
    plain = bool(parts) and not file.path.startswith(("/", "~")) and "\\" not in file.path
    inside = (root / file.path).resolve().is_relative_to(root) if plain else False
    if plain and inside and ".." not in parts and not re.search(r"[\x00-\x1f:]", file.path):
        return
    raise MssegError(
        Problem(
            "download.place",
            "the path leads out of the folder of the data set",
            file=ascii(file.path)[1:-1][:200],
            expected="a path below the folder",
            remedy="do not use this list of files",
            exit_code=ExitCode.SECURITY,
        )
    )


def _digest(path: Path, like: str) -> str:
    """Hash of a file, of the same kind as another hash."""
    kind = like.partition(":")[0]
    if kind == "git":  # sha1 is git's choice; it is compared over https only
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _unavailable(file: RemoteFile, error: Exception) -> MssegError:
    return MssegError(
        Problem(
            "download.unavailable",
            "the file cannot be fetched",
            file=file.path,
            field=urllib.parse.urlsplit(file.url).hostname or "",
            found=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            expected="the file",
            remedy=f"check the connection, then {_AGAIN}",
            exit_code=ExitCode.ENVIRONMENT,
        )
    )
