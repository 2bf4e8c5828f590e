"""Overlapping patches on a grid, with positive patches repeated for balance."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.sample.grid import GridLoader


class BalancedGridLoader(GridLoader):
    """All patches of a grid once per epoch, those with new lesions several times (S17).

    The number of repeats is set once: that of negative patches over that of positive ones, rounded,
    at least 1. All of them are shuffled anew for every turn. Elements of the whole run are
    numbered, so the batch of a step is a function of (seed, step).

    Args:
        sampler: the lattice; see ``PatchLoader`` for the other arguments.
        mirror: not used here; mirror images are the augmentation's.
    """

    @functools.cached_property
    def repeats(self) -> int:
        """Number of repetitions of each positive patch per epoch."""
        positive, negative = self.boxes
        return max(1, round(len(negative) / len(positive))) if len(positive) else 0

    @property
    def turn(self) -> int:
        """Number of elements per epoch."""
        positive, negative = self.boxes
        return self.repeats * len(positive) + len(negative)

    def place(self, number: int) -> tuple[int, NDArray[np.float64], bool]:
        """Subject and centre of an element, numbered over the whole run; never mirrored."""
        positive, negative = self.boxes
        round_, index = divmod(number, self.turn)
        box = int(self._order("balanced", round_, self.turn)[index])
        if box < len(negative):
            return self._element(negative, box, False)
        return self._element(positive, (box - len(negative)) % len(positive), False)
