"""Callback that saves a checkpoint on a signal and ends with its exit code."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning as L

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.train.checkpoint import KeepCheckpoints
from msseg_lightning.train.ranks import max_over_ranks

EXIT_CODES = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HUNG_UP,
    signal.SIGUSR1: ExitCode.PREEMPTED,
}
"""Exit code per signal. Schedulers send SIGUSR1 when the machine is needed: SLURM some time before
the end (``--signal=USR1@90``). Its exit code asks to be queued again. SIGHUP: the
terminal was closed, or its connection lost."""
NOTHING, SAVE = 0, 1
"""Requests that ranks exchange; to end by a signal is requested by the signal's number, which is
larger."""


class StopOnSignal(L.Callback):
    """On a signal, finish the step, save and end; a second signal ends at once.

    A signal may reach one rank, and clocks differ: after every optimiser step the ranks agree. The
    last step of an epoch is whole when its validation is: a run that went on from between the two
    would never validate it.

    Args:
        checkpoints: who saves, also at the end of every epoch; comes before this among callbacks.
    """

    def __init__(self, checkpoints: KeepCheckpoints) -> None:
        self.checkpoints = checkpoints
        self._caught: signal.Signals | None = None
        self._request = NOTHING
        self._before = {number: signal.getsignal(number) for number in EXIT_CODES}

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Replace Lightning's signal handlers, which would exit with 0 and save nothing."""
        for number in EXIT_CODES:
            if number != signal.SIGHUP or self._before[number] != signal.SIG_IGN:  # as of nohup
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._caught is not None and number != signal.SIGUSR1:  # schedulers may repeat that one
            self._release()
            signal.raise_signal(number)
        self._caught = self._caught or signal.Signals(number)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """End if a signal came; the metrics of the previous step have been logged."""
        self._leave(trainer, self._request)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """After a complete optimiser step, agree over all ranks whether to save or to end."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        if trainer.fit_loop._should_accumulate() or trainer.global_step % data.epoch_steps == 0:
            return
        self._request = max_over_ranks(
            self._caught or (SAVE if self.checkpoints.due() else NOTHING)
        )
        if self._request >= SAVE:
            self.checkpoints.save_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """End if a signal came, after the validation and its checkpoint."""
        self._leave(trainer, max_over_ranks(self._caught or NOTHING))

    @staticmethod
    def _leave(trainer: L.Trainer, request: int) -> None:
        if request <= SAVE:
            return
        caught = signal.Signals(request)
        raise MssegError(
            Problem(
                "train.stopped",
                f"stopped by {caught.name} after step {trainer.global_step}; the state is saved",
                remedy="give the same command again to continue",
                exit_code=EXIT_CODES[caught],
            )
        )

    def teardown(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        self._release()

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        """Restore the previous signal handlers."""
        self._release()

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
