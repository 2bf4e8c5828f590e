"""What several tests of splits say shortly."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError


def names(count: int) -> list[str]:
    return [f"p{number:02d}" for number in range(count)]


def refused(action) -> ExitCode:
    with pytest.raises(MssegError) as caught:
        action()
    assert all(problem.remedy and problem.field for problem in caught.value.problems)
    return caught.value.exit_code


def parts(split) -> list[set[str]]:
    return [set(split.train), set(split.val), set(split.test)]
