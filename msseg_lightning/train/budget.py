"""Training time: counted in every fit, and limited where a budget is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import lightning as L

from msseg_lightning.train.ranks import max_over_ranks


class TimeBudget(L.Callback):
    """Counts the time of a training over interruptions, and ends it when a budget is spent.

    The time is that of the processor (all threads of this process), so that trainings that run
    beside each other on one machine are comparable; on a GPU, where the processor mostly waits, it
    is that of the clock. Validations count. What was done after the last checkpoint of a killed
    training is repeated, so its time is not counted.

    With a budget the learning-rate schedule follows it: after half of the minutes it is where it
    would be after half of the steps (``position``).

    Args:
        minutes: of the whole training; None only counts.
        steps: length of the learning-rate schedule.
        clock: seconds of this process.
    """

    def __init__(
        self,
        minutes: float | None,
        steps: int,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.limit_s = math.inf if minutes is None else 60 * minutes
        self.steps, self.clock = steps, clock
        self._before_s = 0.0  # of earlier processes
        self._began: float | None = None
        self._agreed_s = 0.0  # the same on all ranks

    @property
    def spent_s(self) -> float:
        """Seconds that were spent so far."""
        return self._before_s + (0.0 if self._began is None else self.clock() - self._began)

    @property
    def minutes(self) -> float:
        """Minutes that were spent so far."""
        return round(self.spent_s / 60, 4)

    def position(self) -> int:
        """Step of the schedule that belongs to the spent share of the budget."""
        return min(self.steps, int(self.steps * self._agreed_s / self.limit_s))

    def state_dict(self) -> dict[str, Any]:
        """State that is stored in the checkpoint."""
        return {"spent_s": self.spent_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._before_s = self._agreed_s = float(state_dict["spent_s"])

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin to count; stop a resumed training whose budget was spent already."""
        self._began = self.clock()
        self._judge(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """After an optimiser step, agree over all ranks and end if the budget is spent."""
        if math.isfinite(self.limit_s) and not trainer.fit_loop._should_accumulate():
            self._agreed_s = max_over_ranks(round(1000 * self.spent_s)) / 1000
            self._judge(trainer)

    def _judge(self, trainer: L.Trainer) -> None:
        if self._agreed_s >= self.limit_s:
            trainer.should_stop = True
