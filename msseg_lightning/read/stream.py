"""Reading and decompression of files within limits.

Common readers stop at the last voxel and never look at the end of the stream, so a cut or damaged
copy passes as a scan with a black rest. Here a stream counts only with its end mark, checksum and
length.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import deflate
import numpy as np
from isal import isal_zlib
from isal.isal_zlib import IsalError

from msseg_lightning.core.input_hash import Input
from msseg_lightning.core.problem import ExitCode, MssegError, Problem

GZIP_MAGIC = b"\x1f\x8b"
LARGEST_RATIO = 1040
"""Deflate cannot shrink data by more than a factor of 1032."""
HEADER_BYTES = 352
SPARE_BYTES = 1 << 20
_CHUNK = 1 << 20
_COPY_AGAIN = "copy or download the file again"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on the size of one file, checked before allocation.

    Args:
        voxels: largest number of voxels; 320 x 512 x 512 is the largest grid of the challenge.
        unpacked_bytes: largest size of the voxels as stored.
        packed_bytes: largest file.
    """

    voxels: int = 200_000_000
    unpacked_bytes: int = 1_000_000_000
    packed_bytes: int = 1_000_000_000


class Stream:
    """Reads the content of one file.

    Args:
        path: a regular file.
        name: how messages call it.
        limits: what it may ask for.

    Raises:
        MssegError: empty, unreadable or larger than the limit.
    """

    def __init__(self, path: Path, name: str, limits: Limits) -> None:
        self.name = name
        try:
            size = path.stat().st_size
            if size > limits.packed_bytes:
                raise MssegError(
                    Problem(
                        "image.too_large",
                        "the file is larger than the limit",
                        file=name,
                        field="file size",
                        found=f"{size} bytes",
                        expected=f"at most {limits.packed_bytes} bytes",
                        remedy="check that this is one 3D scan",
                    )
                )
            self._input = Input(path)
            self.packed = self._input.content
        except OSError as error:
            raise MssegError(
                Problem(
                    "image.unreadable",
                    "the file cannot be read",
                    file=name,
                    field="file",
                    found=error.strerror or type(error).__name__,
                    expected="a readable file",
                    remedy="check the disk and the permissions",
                    exit_code=ExitCode.ENVIRONMENT,
                )
            ) from None
        if not self.packed:
            raise MssegError(
                Problem(
                    "image.empty_file",
                    "empty file",
                    file=name,
                    field="file size",
                    found="0 bytes",
                    expected="a NIfTI file",
                    remedy=_COPY_AGAIN,
                )
            )
        self.is_gzip = self.packed.startswith(GZIP_MAGIC)

    def sha256(self) -> str:
        """Hex digest of the file's bytes, those that are unpacked here."""
        return self._input.sha256()

    def head(self) -> bytes:
        """The first unpacked bytes: header and extension flag, fewer where the file is short."""
        if not self.is_gzip:
            return self.packed[:HEADER_BYTES]
        try:
            # a small piece of the file suffices; comments in the gzip header may push it back
            return isal_zlib.decompressobj(31).decompress(self.packed[:65536], HEADER_BYTES)
        except (IsalError, EOFError):  # type: ignore[misc]  # stub says instance, is class
            raise MssegError(self._corrupt(0)) from None

    def body(self, expected: int) -> tuple[bytes | bytearray | memoryview, int]:
        """All unpacked bytes up to ``expected``, and the number of further bytes.

        The ordinary stream is unpacked in one call; anything else again, bit by bit, to tell why.

        Raises:
            MssegError: the stream ends early, is damaged, or holds far more than announced.
        """
        if not self.is_gzip:
            if len(self.packed) < expected:
                raise MssegError(self._short(len(self.packed), expected))
            return memoryview(self.packed)[:expected], len(self.packed) - expected
        if expected > len(self.packed) * LARGEST_RATIO + SPARE_BYTES:
            raise MssegError(
                Problem(
                    "image.short",
                    "the file is too small to hold the voxels its header announces",
                    file=self.name,
                    field="dim",
                    found=f"{len(self.packed)} compressed bytes",
                    expected=f"{expected} bytes after unpacking",
                    remedy=_COPY_AGAIN,
                )
            )
        if (whole := self._at_once(expected)) is not None:
            return whole, 0
        parts: list[bytes] = []
        produced, extra, pending = 0, 0, self.packed
        while pending.startswith(GZIP_MAGIC):  # a gzip file may be several, one after the other
            member = isal_zlib.decompressobj(31)
            feed = pending
            while not member.eof:
                room = expected - produced
                try:
                    part = member.decompress(feed, room + 1 if room > 0 else _CHUNK)
                except (IsalError, EOFError):  # type: ignore[misc]  # stub says instance, is class
                    raise MssegError(self._corrupt(produced)) from None
                feed = member.unconsumed_tail
                if room > 0:
                    parts.append(part[:room] if len(part) > room else part)
                    extra += max(0, len(part) - room)
                    produced += min(len(part), room)
                else:
                    extra += len(part)
                if extra > max(SPARE_BYTES, expected // 4):
                    raise MssegError(self._overfull(expected))
                if not part and not feed and not member.eof:
                    raise MssegError(self._cut(produced, expected))
            pending = member.unused_data
        if pending.strip(b"\0"):
            raise MssegError(
                Problem(
                    "image.trailing",
                    "something else follows the compressed data",
                    file=self.name,
                    field="gzip stream",
                    found=f"{len(pending)} further bytes",
                    expected="the end of the file",
                    remedy=_COPY_AGAIN,
                )
            )
        if produced < expected:
            raise MssegError(self._short(produced, expected))
        return parts[0] if len(parts) == 1 else b"".join(parts), extra

    def _at_once(self, expected: int) -> bytearray | None:
        """The bytes of a single valid stream that fills the file; else None."""
        try:
            whole = deflate.gzip_decompress(self.packed, expected)  # compares checksum and length
        except (deflate.DeflateError, ValueError):
            return None
        # bytes after the stream were not read: its trailer must end the file and occur only there
        trailer = deflate.crc32(whole).to_bytes(4, "little") + len(whole).to_bytes(4, "little")
        alone = self.packed.endswith(trailer) and _once(self.packed, trailer)
        return whole if len(whole) == expected and alone else None

    def _cut(self, produced: int, expected: int) -> Problem:
        return Problem(
            "image.truncated",
            f"gzip stream ends early, {produced} of {expected} bytes",
            file=self.name,
            field="gzip stream",
            found="no valid end of the stream",
            expected="end mark, checksum and length",
            remedy=_COPY_AGAIN,
        )

    def _corrupt(self, produced: int) -> Problem:
        return Problem(
            "image.corrupt",
            "the compressed data are damaged: checksum or coding is wrong",
            file=self.name,
            field="gzip stream",
            found=f"an error after {produced} good bytes" if produced else "an error",
            expected="data that match their checksum",
            remedy=_COPY_AGAIN,
        )

    def _short(self, found: int, expected: int) -> Problem:
        return Problem(
            "image.short",
            "fewer voxels than the header announces",
            file=self.name,
            field="dim",
            found=f"{found} bytes",
            expected=f"{expected} bytes",
            remedy=_COPY_AGAIN,
        )

    def _overfull(self, expected: int) -> Problem:
        return Problem(
            "image.bomb",
            "the stream unpacks to far more than the header announces; unpacking was stopped",
            file=self.name,
            field="gzip stream",
            found=f"more than {expected + max(SPARE_BYTES, expected // 4)} bytes",
            expected=f"{expected} bytes",
            remedy="do not use this file; get it again from a trusted source",
        )


def _once(packed: bytes, trailer: bytes) -> bool:
    """Whether the last eight bytes of a file occur only once in it.

    ``bytes.find`` takes twice as long. Wherever eight bytes stand, they fill one of the file's
    whole 32-bit words, whose value is one of four.
    """
    words = np.frombuffer(packed, np.uint32, len(packed) // 4)
    values = (np.frombuffer(trailer, np.uint32, 1, offset)[0] for offset in range(4))
    if sum(np.count_nonzero(words == value) for value in values) <= 1:
        return True
    return packed.find(trailer) == len(packed) - len(trailer)  # words also meet by chance


def recognise(head: bytes, name: str) -> Problem:
    """Name of the format that a file without a NIfTI header seems to have."""
    start = ascii(head[:20].decode("latin-1"))
    low = head[:256].lstrip().lower()
    found, remedy = f"starts with {start}", "put the NIfTI file in its place"
    code, message = "image.not_nifti", "not NIfTI"
    if head.startswith(b"version https://git-lfs"):
        code, message = "image.pointer", "a Git LFS pointer instead of the data"
        remedy = "fetch the content: git lfs pull"
    elif head.lstrip().startswith(b"/annex/objects/") or b".git/annex/objects" in head[:256]:
        code, message = "image.pointer", "a git-annex pointer instead of the data"
        remedy = "fetch the content: git annex get FILE (or datalad get FILE)"
    elif low.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        message = "a web page was saved as the scan"
        remedy = "download again after logging in"
    elif head[128:132] == b"DICM":
        message, remedy = "a DICOM file", "convert it with dcm2niix"
    elif head[:4] == b"\x00\x00\x00\x01" and len(head) > 284 and head[4:6] == b"\x00\x00":
        message, remedy = "looks like FreeSurfer MGH/MGZ", "convert it with mri_convert"
    elif head.startswith(b"NRRD"):
        message, remedy = "an NRRD file", "convert it to NIfTI"
    elif head.startswith(b"PK\x03\x04"):
        message, remedy = "a zip archive", "unpack it"
    return Problem(
        code,
        message,
        file=name,
        field="first bytes",
        found=found,
        expected="NIfTI-1",
        remedy=remedy,
    )
