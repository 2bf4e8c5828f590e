"""Errors as records: file, field, found value, expected value and remedy."""

from __future__ import annotations

import dataclasses
import enum
import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal


class ExitCode(enum.IntEnum):
    """Exit codes of all commands; INTERNAL means a bug."""

    OK = 0
    INTERNAL = 1
    CONFIG = 2
    DATA = 3
    MODEL = 4
    ENVIRONMENT = 5
    SECURITY = 6
    NUMERICAL = 7
    STORE = 8
    PARTIAL = 9
    PREEMPTED = 75
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


@dataclasses.dataclass(frozen=True)
class Problem:
    """One finding about one file or setting.

    Args:
        code: stable identifier, e.g. ``image.truncated``.
        message: one plain sentence.
        file: what it is about; only the part below the data root is shown where a root is known.
        field: header field, column, config key or voxel property.
        found: the value that was found.
        expected: what should be there.
        remedy: what the user can do about it.
        severity: an ``error`` refuses the input, a ``warning`` is logged and kept with the result.
        exit_code: status of a command that ends because of this problem.
    """

    code: str
    message: str
    file: Path | str | None = None
    field: str = ""
    found: str = ""
    expected: str = ""
    remedy: str = ""
    severity: Literal["error", "warning"] = "error"
    exit_code: ExitCode = ExitCode.DATA

    def __str__(self) -> str:
        place = f"{self.file}: " if self.file is not None else ""
        detail = "; ".join(
            f"{name} {value}"
            for name, value in (
                ("field", self.field),
                ("found", self.found),
                ("expected", self.expected),
            )
            if value
        )
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"[{self.code}] {place}{self.message}{f' ({detail})' if detail else ''}{remedy}"

    def as_dict(self) -> dict[str, str | int]:
        """The problem as a JSON record."""
        record = dataclasses.asdict(self)
        record["file"] = None if self.file is None else str(self.file)
        record["exit_code"] = int(self.exit_code)
        return record


class MssegError(Exception):
    """Error with all problems that were found; the command line prints them."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: that of a security problem if there is one, else that of the first problem."""
        codes = [problem.exit_code for problem in self.problems]
        if ExitCode.SECURITY in codes:
            return ExitCode.SECURITY
        return codes[0] if codes else ExitCode.INTERNAL


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, also as torch reports it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def disk_error(error: BaseException) -> OSError | None:
    """The failure of a disk that an error means, also as libraries report it; None for others.

    torch, safetensors and SQLite have errors of their own for a full disk, numpy one without a
    number.
    """
    text = str(error)
    if isinstance(error, OSError) and not (error.errno is None and " requested and " in text):
        return error
    if number := re.search(r"\(os error (\d+)\)", text):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if any(part in text for part in _WRITE_FAILED):
        return OSError(errno.ENOSPC, "a file could not be written; the disk may be full")
    return None


_WRITE_FAILED = (
    " requested and ",  # numpy
    "unexpected pos",  # torch
    "PytorchStreamWriter failed",
    "database or disk is full",  # SQLite
    "disk I/O error",
)
