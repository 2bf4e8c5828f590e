"""Words around numbers."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "pair"), counted(2, "pair"), counted(0, "voxel")
    ('1 pair', '2 pairs', '0 voxels')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
