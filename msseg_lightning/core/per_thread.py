"""Scratch memory of each thread."""

from __future__ import annotations

import threading


class PerThread(threading.local):
    """A value per thread; a copy in another process is empty."""

    def __reduce__(self) -> tuple[type[PerThread], tuple[()]]:
        return PerThread, ()
