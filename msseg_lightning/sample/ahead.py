"""Batches made in the background while the network learns from the one before."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from msseg_lightning.core.batch import Batch


def made_ahead(
    make: Callable[[int], Batch], start: int, stop: int, waiting: int = 2
) -> Iterator[Batch]:
    """Batches of the steps ``start .. stop - 1`` in order, made by one thread.

    Args:
        make: step -> batch, a pure function.
        start: first step.
        stop: one past the last.
        waiting: most batches that wait, which bounds memory. Leaving the iterator early stops the
            thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    made: collections.deque[Future[Batch]] = collections.deque()
    try:
        following = start
        while made or following < stop:
            while following < stop and len(made) <= waiting:
                made.append(pool.submit(make, following))
                following += 1
            yield made.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
