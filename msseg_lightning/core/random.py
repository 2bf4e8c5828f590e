"""Random generators that are pure functions of a key, so that resumed runs draw the same."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_seed(*key: int | str) -> int:
    """A 64-bit seed from the parts of a key such as ``(seed, "augment", step, index)``.

    Independent of Python's hash seed, of process, worker and order.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A new generator seeded from a key; counter-based, so creation is cheap."""
    return np.random.Generator(np.random.Philox(key=keyed_seed(*key)))
