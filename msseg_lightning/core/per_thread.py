"""Scratch memory of each thread."""

from __future__ import annotations

import threading


class PerThread(threading.local):
    """What a thread keeps for itself; a copy in another process begins empty."""

    def __reduce__(self) -> tuple[type[PerThread], tuple[()]]:
        return PerThread, ()
