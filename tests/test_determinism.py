"""Equal bits of every system: again, stopped at a random step, and with other numbers of workers.

Run with ``pytest -m determinism``; about a minute of processor time per system.
"""

from __future__ import annotations

import random
import signal

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.run.config.preset_files import experiment_names
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.verify_run import verify_runs
from msseg_lightning.train.interruption import StopOnSignal
from tests.conftest import tiny_words

pytestmark = pytest.mark.determinism


def trained(name, cohort, place, *words):
    """The words of a training, and its exit code."""
    given = ["train", name, *tiny_words(cohort), "track=off", f"paths.runs={place / 'runs'}"]
    code = main([*given, f"paths.cache={place / 'cache'}", *words])
    (run,) = (place / "runs" / name).iterdir()
    return code, RunFolder(run)


class Steps:
    """Counts the steps of all fits of a run; after ``stop_at`` of them a signal comes."""

    def __init__(self, patch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        self.count = 0
        end = StopOnSignal.on_train_batch_end

        def counted(callback, trainer, *rest):
            self.count += 1
            if self.count == stop_at:
                signal.raise_signal(signal.SIGTERM)
            end(callback, trainer, *rest)

        patch.setattr(StopOnSignal, "on_train_batch_end", counted)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", experiment_names())
def test_rerun_resume_and_workers_give_equal_bits(name, tiny_cohort, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        steps = Steps(patch)
        code, first = trained(name, tiny_cohort, tmp_path / "first")
        assert code == 0
    for workers in (0, 2):
        code, again = trained(
            name, tiny_cohort, tmp_path / f"w{workers}", f"data.workers={workers}"
        )
        assert code == 0
        assert not verify_runs(first, again).parted, workers
    if not steps.count:  # rules and boosted trees have no steps to stop at
        return
    with monkeypatch.context() as patch:
        Steps(patch, stop_at=random.Random(name).randint(1, steps.count))
        code, _ = trained(name, tiny_cohort, tmp_path / "stopped")
    assert code == 143
    code, resumed = trained(name, tiny_cohort, tmp_path / "stopped")
    assert code == 0
    assert not verify_runs(first, resumed).parted
