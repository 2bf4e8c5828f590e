"""Shards are a partition; variables of schedulers are read for ``auto`` only."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.shard import Shard


@pytest.mark.parametrize("size", [0, 1, 7, 20])
@pytest.mark.parametrize("count", [1, 2, 7, 9])
def test_the_parts_are_the_whole_and_share_nothing(size, count):
    parts = [Shard(number, count).of(range(size)) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_third_of_seven():
    assert Shard.parse("2/3").of("abcdefg") == ["b", "e"]


SLURM = {"SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/1", {}, (1, 1)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "12", **SLURM}, (3, 4)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "16", "SLURM_ARRAY_TASK_STEP": "2", **SLURM}, (4, 4)),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "5"}, (1, 5)),
        ("auto/3", {"JOB_COMPLETION_INDEX": "2"}, (3, 3)),
        ("2/3", {"JOB_COMPLETION_INDEX": "0"}, (2, 3)),  # what is said counts
    ],
)
def test_places(text, environment, expected):
    shard = Shard.parse(text, environment)
    assert (shard.number, shard.count) == expected


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("0/3", {}),
        ("4/3", {}),
        ("3", {}),
        ("-1/3", {}),
        ("auto", {}),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}),  # of how many?
        ("auto/2", {"JOB_COMPLETION_INDEX": "2"}),
        ("auto", {"SLURM_ARRAY_TASK_ID": "%A_7", **SLURM}),
        ("auto", {"SLURM_ARRAY_TASK_ID": "19", **SLURM}),  # an array with gaps
    ],
)
def test_what_is_no_part_is_refused(text, environment):
    with pytest.raises(MssegError) as caught:
        Shard.parse(text, environment)
    assert caught.value.exit_code == ExitCode.CONFIG and text in str(caught.value)
