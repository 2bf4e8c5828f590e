"""A second signal ends the training at once."""

from __future__ import annotations

import signal

import pytest

from msseg_lightning.train.interruption import EXIT_CODES, StopOnSignal


def test_the_exit_codes_are_those_of_a_shell_and_of_a_queue():
    codes = {number.name: int(code) for number, code in EXIT_CODES.items()}
    assert codes == {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 75}


def test_the_first_signal_waits_for_the_step_and_the_second_does_not():
    # a shell starts background jobs with this signal ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    stop = StopOnSignal(checkpoints=None)
    stop.on_train_start(None, None)
    signal.raise_signal(signal.SIGINT)  # nothing happens yet
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_scheduler_may_say_it_twice():
    stop = StopOnSignal(checkpoints=None)
    stop.on_train_start(None, None)
    try:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        stop.teardown(None, None, "fit")


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_the_end_of_a_terminal_saves_unless_nohup_asks_to_go_on(before):
    kept = signal.signal(signal.SIGHUP, before)
    try:
        stop = StopOnSignal(checkpoints=None)
        stop.on_train_start(None, None)
        signal.raise_signal(signal.SIGHUP)
        assert stop._caught == (signal.SIGHUP if before == signal.SIG_DFL else None)
        stop.teardown(None, None, "fit")
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, kept)
