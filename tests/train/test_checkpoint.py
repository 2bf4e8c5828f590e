"""A checkpoint is whole or refused, and runs no code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.train.checkpoint import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    KeepCheckpoints,
    read_checkpoint,
)


@pytest.fixture
def file(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(9.0)}, tmp_path / LAST)
    return tmp_path / LAST


def test_what_was_written_is_read(file):
    torch.testing.assert_close(read_checkpoint(file)["weights"], torch.arange(9.0))
    assert [path.name for path in file.parent.iterdir()] == [LAST]  # nothing unfinished is left


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_damage_is_refused_by_name(file, damage):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    left = {"cut": content[:-400], "changed": content, "empty": b"", "other": b"no checkpoint"}
    file.write_bytes(left[damage])
    with pytest.raises(MssegError) as caught:
        AtomicCheckpointIO().load_checkpoint(file)
    (problem,) = caught.value.problems
    assert caught.value.exit_code == ExitCode.MODEL and str(file) in str(problem)


def test_objects_that_could_run_code_are_not_loaded(tmp_path):
    class Loud:
        def __reduce__(self):
            return print, ("this ran",)

    AtomicCheckpointIO().save_checkpoint({"weights": Loud()}, tmp_path / LAST)
    with pytest.raises(MssegError) as caught:
        AtomicCheckpointIO().load_checkpoint(tmp_path / LAST, weights_only=False)
    assert caught.value.exit_code == ExitCode.SECURITY


def test_the_best_is_kept_by_its_score_and_the_last_always(tmp_path):
    saved = []
    trainer = SimpleNamespace(
        callback_metrics={},
        global_step=0,
        save_checkpoint=lambda file, weights_only: saved.append((file.name, weights_only)),
    )
    keep = KeepCheckpoints(tmp_path, minutes=60)
    for step, score in ((5, 0.4), (10, 0.6), (15, 0.6), (20, None)):
        trainer.global_step = step
        trainer.callback_metrics = {} if score is None else {"val/score": torch.tensor(score)}
        keep.on_train_epoch_end(trainer, None)
    last, best = (LAST, False), (BEST, True)
    assert saved == [best, last, best, last, last, last]
    again = KeepCheckpoints(tmp_path)
    again.load_state_dict(keep.state_dict())
    assert again.best_step == 10 and again.best_score == pytest.approx(0.6)
    assert not keep.due()
    keep.minutes = 0
    assert keep.due()
