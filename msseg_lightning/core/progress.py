"""Progress bars and stage lines for work that takes longer than two seconds."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)
Item = TypeVar("Item")


@contextlib.contextmanager
def stage(what: str, patience_s: float = 2.0) -> Iterator[None]:
    """Log a line with what is waited for, if the work takes longer than ``patience_s`` seconds."""
    timer = threading.Timer(patience_s, log.info, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def track(items: Sequence[Item], what: str, patience_s: float = 2.0) -> Iterator[Item]:
    """Yield items; after ``patience_s`` seconds a progress bar appears on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    began = time.monotonic()
    bar = task = None
    try:
        for done, item in enumerate(items):
            if bar is None and console.is_terminal and time.monotonic() - began > patience_s:
                bar = Progress(console=console)
                bar.start()
                task = bar.add_task(what, total=len(items), completed=done)
            yield item
            if bar is not None and task is not None:
                bar.update(task, completed=done + 1)
    finally:
        if bar is not None:
            bar.stop()
