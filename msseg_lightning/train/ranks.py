"""Training in several processes: rank 0 runs the command, the other ranks join its fits.

The leader is the process that was asked to train. It prepares, decides, writes, tracks and predicts
as if it were alone. Only a fit is shared: the leader sends it to the followers, as it stands, and
all carry it out. A follower does nothing else, so nothing else can happen twice.

On one machine the leader starts its followers itself, for each fit anew. Where torchrun or srun has
started all processes, the first leads and the others wait in `run_follower` until it ends.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch import distributed

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

log = logging.getLogger(__name__)

Work = Callable[[ClusterEnvironment], Any]
"""A fit that takes the environment of the process it runs in."""
EXCHANGE_TIMEOUT = datetime.timedelta(days=30)
"""Timeout of collective operations; long, since followers wait while the leader prepares or
predicts. A dead process is noticed by other means: its connections close, and its starter (leader,
torchrun, srun) ends the rest."""
GRACE_S = 20.0
"""Seconds that processes get for a clean end after another one died."""


class LocalEnvironment(TorchElasticEnvironment):
    """Environment of a process that the leader started on its own machine.

    Args:
        rank: of this process; 0 is the leader.
        size: number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size

    def world_size(self) -> int:
        return self.size

    def global_rank(self) -> int:
        return self.rank

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0


def external_environment() -> ClusterEnvironment | None:
    """Environment set by torchrun or srun; None where this process was started alone.

    A batch script's own shell has SLURM's variables, too, but only srun counts a step's tasks.
    """
    place: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        place = TorchElasticEnvironment()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        place = SLURMEnvironment(auto_requeue=False)  # it would save in the middle of a step
    else:
        return None
    return place if place.world_size() > 1 else None


def run_follower() -> int | None:
    """Carry out the leader's fits until it ends.

    Returns:
        Exit code of this process; None in a process that leads or is alone, which goes on.
    """
    place = external_environment()
    if place is None or place.global_rank() == 0:
        return None
    _join(place)
    return _serve(place)


@contextlib.contextmanager
def releasing_followers() -> Iterator[None]:
    """End the followers of torchrun or srun when the block is done.

    After an error they see the connection close, and end with an error, too.
    """
    place = external_environment()
    if place is None:
        yield
        return
    _join(place)
    yield
    distributed.broadcast_object_list([int(ExitCode.OK)], src=0)
    distributed.destroy_process_group()


@contextlib.contextmanager
def on_all_processes(devices: int, nodes: int, work: Work) -> Iterator[ClusterEnvironment]:
    """Send ``work`` to all followers; the leader does the same work inside the block.

    Args:
        devices: processes on each machine.
        nodes: machines.
        work: is pickled and sent.

    Raises:
        MssegError: another number of processes was started (exit 2), a process died (exit 5).
    """
    outside, size = external_environment(), devices * nodes
    if outside is not None:
        _require(outside.world_size() == size, devices, nodes, f"{outside.world_size()} processes")
        if not distributed.is_initialized():
            _require(False, devices, nodes, "processes that were not told to follow")
        distributed.broadcast_object_list([work], src=0)
        yield outside
    elif size == 1:
        yield LightningEnvironment()
    else:
        _require(nodes == 1, devices, nodes, "one process on one machine")
        with _started(size, work) as place:
            yield place


def max_over_ranks(value: int) -> int:
    """Maximum of a value over all ranks; every rank must call this."""
    if not distributed.is_initialized():
        return value
    number = torch.tensor(value)  # on the CPU, without waiting for a device
    distributed.all_reduce(number, distributed.ReduceOp.MAX)
    return int(number)


def _require(fits: bool, devices: int, nodes: int, found: str) -> None:
    if not fits:
        raise MssegError(
            Problem(
                "train.processes",
                "the number of processes that were started is not that of the settings",
                field="trainer.devices x trainer.num_nodes",
                found=found,
                expected=f"{devices} x {nodes}",
                remedy="give the numbers that torchrun or srun was given; several machines need "
                "one of the two",
                exit_code=ExitCode.CONFIG,
            )
        )


def _join(place: ClusterEnvironment) -> None:
    os.environ["MASTER_ADDR"] = place.main_address
    os.environ["MASTER_PORT"] = str(place.main_port)
    distributed.init_process_group(
        rank=place.global_rank(), world_size=place.world_size(), timeout=EXCHANGE_TIMEOUT
    )


def _serve(place: ClusterEnvironment) -> int:
    """Carry out what the leader sends until it sends a number, the exit code."""
    while True:
        sent: list[Any] = [None]
        try:
            distributed.broadcast_object_list(sent, src=0)
        except RuntimeError:  # the leader ended and has reported the error
            return ExitCode.ENVIRONMENT
        if isinstance(sent[0], int):
            return sent[0]
        try:
            sent[0](place)
        except MssegError as error:  # the leader says the same
            return error.exit_code


# ---------------------------------------------------------------- processes on the same machine
@contextlib.contextmanager
def _started(size: int, work: Work) -> Iterator[ClusterEnvironment]:
    store = distributed.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    spawn = get_context("spawn")
    level = logging.getLogger("msseg_lightning").level
    followers = [
        spawn.Process(target=_follower, args=(store.port, rank, size, level), name=f"rank{rank}")
        for rank in range(1, size)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // size))
    watch = _FollowerWatch(followers)
    try:
        with _ignored(signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            for follower in followers:
                follower.start()
        watch.start()
        distributed.init_process_group(
            store=store, rank=0, world_size=size, timeout=EXCHANGE_TIMEOUT
        )
        distributed.broadcast_object_list([work], src=0)
        yield LocalEnvironment(0, size)
        for follower in followers:
            follower.join(GRACE_S)
    except RuntimeError as error:  # an exchange failed, or something else
        watch.raise_if_follower_died(error)
        raise
    finally:
        watch.done.set()
        for follower in followers:
            if follower.is_alive():
                follower.kill()
                follower.join()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Context in which started processes ignore these signals until they train.

    Ctrl-C and the end of a terminal reach all its processes, SIGUSR1 all of a job; the leader
    answers.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _FollowerWatch(threading.Thread):
    """Thread that ends the leader if a follower died, since the leader would wait forever.

    With gloo the leader's next exchange fails at once and says so. A GPU may wait for a message
    that never comes, where no exception reaches.

    Args:
        followers: their processes.
    """

    def __init__(self, followers: list[SpawnProcess]) -> None:
        super().__init__(name="watch", daemon=True)
        self.followers = followers
        self.done = threading.Event()

    def run(self) -> None:
        """Wait for the first follower that fails."""
        left = list(self.followers)
        while left and not self.done.is_set():
            ended = self._ended(left, timeout_s=1.0)
            if any(follower.exitcode for follower in ended):
                break
            left = [follower for follower in left if follower not in ended]
        if not left or self.done.wait(GRACE_S):
            return
        log.error("a process of this training died and the leader cannot go on without it")
        for follower in self.followers:
            follower.kill()
        os._exit(ExitCode.ENVIRONMENT)

    def raise_if_follower_died(self, error: RuntimeError) -> None:
        """Raise an error that names the followers that died, if any did.

        Raises:
            MssegError: a follower died (exit 5).
        """
        started = [follower for follower in self.followers if follower.pid is not None]
        dead = [f for f in self._ended(started, timeout_s=2.0) if f.exitcode]
        if not dead:
            return
        raise MssegError(
            Problem(
                "train.process_died",
                "a process of this training died",
                field=", ".join(follower.name for follower in dead),
                found=", ".join(f"exit code {follower.exitcode}" for follower in dead),
                expected="all processes to the end",
                remedy="give the same command again to continue from the last checkpoint",
                exit_code=ExitCode.ENVIRONMENT,
            )
        ) from error

    def _ended(self, followers: list[SpawnProcess], timeout_s: float) -> list[SpawnProcess]:
        """Followers that ended, with their exit codes, which come a little after the pipe closes.

        Of two threads that ask at once (who starts any process asks, too) one gets no code until
        the other has noted it.
        """
        sentinels = connection.wait([one.sentinel for one in followers], timeout_s)
        ended = [one for one in followers if one.sentinel in sentinels]
        deadline = time.monotonic() + GRACE_S
        while any(one.exitcode is None for one in ended) and time.monotonic() < deadline:
            time.sleep(0.01)
        return ended


def _follower(port: int, rank: int, size: int, level: int) -> None:
    """Main function of a follower process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore", module="lightning")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("msseg_lightning").setLevel(max(level, logging.WARNING))
    torch.set_num_threads(max(1, torch.get_num_threads() // size))
    store = distributed.TCPStore("127.0.0.1", port, size, is_master=False)
    distributed.init_process_group(
        store=store, rank=rank, world_size=size, timeout=EXCHANGE_TIMEOUT
    )
    place = LocalEnvironment(rank, size)
    sent: list[Any] = [None]
    distributed.broadcast_object_list(sent, src=0)
    try:
        sent[0](place)
    except MssegError as error:  # the leader says the same
        sys.exit(error.exit_code)
    distributed.destroy_process_group()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(ExitCode.ENVIRONMENT)
