"""Pseudonyms of patients and cases."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from filelock import FileLock

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

KEY_BYTES = 32


def default_key_file() -> Path:
    """The user's key, outside every output folder (``$XDG_CONFIG_HOME/msseg_lightning``)."""
    home = os.environ.get("XDG_CONFIG_HOME")
    base = Path(home) if home else Path.home() / ".config"
    return base / "msseg_lightning" / "pseudonym.key"


class Pseudonyms:
    """Keyed hash of case ids: equal ids give equal names, which cannot be reversed without the key.

    A hash without a key could be reversed by hashing all likely ids.

    Args:
        key_file: 32 random bytes, made on first use, readable by the user only.
        plain: leave ids as they are (public data).
    """

    def __init__(self, key_file: Path | None = None, plain: bool = False) -> None:
        self.plain = plain
        self._key = b"" if plain else _load_key(key_file or default_key_file())

    def name(self, case: str) -> str:
        """Pseudonym of a case: ``case-`` and 10 hexadecimal digits; the id itself if ``plain``."""
        if self.plain:
            return case
        digest = hashlib.blake2b(case.encode(), key=self._key, digest_size=5).hexdigest()
        return f"case-{digest}"


def _load_key(file: Path) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
        key = file.read_bytes()
    if len(key) != KEY_BYTES or file.stat().st_mode & 0o077:
        raise MssegError(
            Problem(
                "track.pseudonym_key",
                "the key for pseudonyms is damaged or readable by others",
                file=file.name,
                found=f"{len(key)} bytes, mode {file.stat().st_mode & 0o777:o}",
                expected=f"{KEY_BYTES} bytes, mode 600",
                remedy="chmod 600 the file, or delete it to begin with new pseudonyms",
                exit_code=ExitCode.SECURITY,
            )
        )
    return key
