"""One of n equal parts of a list of subjects, for arrays of jobs of any scheduler."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Item = TypeVar("Item")

SHARD_HELP = (
    "only part I of N (1/4 ... 4/4); auto: from the array of jobs of SLURM or AWS Batch, auto/N: "
    "from an indexed job of Kubernetes"
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count`` disjoint parts, which together are the whole list.

    Args:
        number: from 1 to ``count``.
        count: number of parts.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item, so that slow neighbouring items are spread over all parts."""
        return list(items[self.number - 1 :: self.count])

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Shard:
        """Parse ``2/8``, or ``auto`` for the index of this process in an array of jobs.

        ``auto`` reads the array variables of SLURM and AWS Batch. An indexed job of Kubernetes
        knows its index but not the number of jobs, which ``auto/8`` gives. The environment is read
        only for ``auto``: in an array of jobs over something else, such as folds, a command would
        otherwise silently skip most of its subjects.

        Raises:
            MssegError: the text is neither, or there is no array (exit 2).
        """
        given = re.fullmatch(r"(\d+)/(\d+)", text)
        if given:
            return cls._checked(text, int(given[1]), int(given[2]))
        automatic = re.fullmatch(r"auto(?:/(\d+))?", text)
        if not automatic:
            raise _wrong(text, "1/8 to 8/8, auto or auto/8", "parts are counted from 1")
        index, count = _array_place(environment)
        if automatic[1]:
            count = int(automatic[1])
        if index is None:
            raise _wrong(
                text,
                "SLURM_ARRAY_TASK_ID, AWS_BATCH_JOB_ARRAY_INDEX or JOB_COMPLETION_INDEX",
                "this is not a job of an array; give the part: --shard 1/8",
            )
        if count is None:
            raise _wrong(text, "the number of parts", "give it: --shard auto/8")
        return cls._checked(text, index + 1, count)

    @classmethod
    def _checked(cls, text: str, number: int, count: int) -> Shard:
        if not 1 <= number <= count:
            raise _wrong(
                f"{text} ({number}/{count})" if text.startswith("auto") else text,
                "1/n to n/n",
                "parts are counted from 1; an array must run over consecutive numbers",
            )
        return cls(number, count)


def _array_place(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Index from 0 and number of jobs from the scheduler's variables; None if unknown."""

    def value(name: str) -> int | None:
        text = environment.get(name, "")
        if text and not text.lstrip("-").isdecimal():
            raise _wrong(f"auto, {name}={text}", "a whole number", "give the part: --shard 1/8")
        return int(text) if text else None

    task = value("SLURM_ARRAY_TASK_ID")
    if task is not None:
        first, step = value("SLURM_ARRAY_TASK_MIN") or 0, value("SLURM_ARRAY_TASK_STEP") or 1
        return (task - first) // step, value("SLURM_ARRAY_TASK_COUNT")
    batch = value("AWS_BATCH_JOB_ARRAY_INDEX")
    if batch is not None:
        return batch, value("AWS_BATCH_JOB_ARRAY_SIZE")
    return value("JOB_COMPLETION_INDEX"), None


def _wrong(found: str, expected: str, remedy: str) -> MssegError:
    return MssegError(
        Problem(
            "shard.argument",
            "this is not a part of the subjects",
            field="--shard",
            found=found,
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
    )
